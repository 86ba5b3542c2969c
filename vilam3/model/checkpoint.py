"""Checkpoint directories: the published three-folder layout and the flat one, loaded memory-mapped and saved whole.

Either may have task-gated adapters in a folder ``adapters/`` of their own, which changes nothing in the others.
Three folders (NVlabs/VILA 355fda9 ``save_pretrained``): root ``config.json``; ``llm/``, ``vision_tower/`` and
``mm_projector/``, each with its own config.json and safetensors, the tokenizer in ``llm/``. Flat: one config.json, one
set of shards with the prefixes ``llm.``, ``vision_tower.`` and ``mm_projector.``, the tokenizer beside them.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vilam3.artifacts import whole_directory
from vilam3.errors import CheckpointError, UserError
from vilam3.model import shards
from vilam3.model.chat import Template
from vilam3.model.chat import template as template_named
from vilam3.model.config import VilaConfig
from vilam3.model.config_files import NOTHING_STATED, Stated, parse_config
from vilam3.model.digests import verify_digests, write_digests
from vilam3.model.families import ADAPTERS, read_adapters
from vilam3.model.gated import GATED, merge
from vilam3.model.images import preprocessor_json
from vilam3.model.tokenizer import PieceTokenizer, load_tokenizer
from vilam3.model.vila import Vila

Layout = Literal["folders", "flat"]
PARTS = ("llm", "vision_tower", "mm_projector")
LICENCES = ("LICENSE", "LLAMA3-LICENSE", "README.md")
# Buffers that older transformers stored; they are computed, so a file may hold them or not.
COMPUTED = (".rotary_emb.inv_freq", ".embeddings.position_ids")
TIED = "llm.lm_head.weight"
MAX_NAMED = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """A network with everything needed to speak to it.

    Attributes:
        model: In evaluation mode when loaded.
        tokenizer: Its tokenizer.
        config: Its configuration.
        template: Its conversation template.
        unexpected: Tensors in the files that the network has no place for.
        origin: Directory it was loaded from, whose licence files go along; None for a fresh one.
    """

    model: Vila
    tokenizer: PieceTokenizer
    config: VilaConfig
    template: Template
    unexpected: tuple[str, ...] = ()
    origin: Path | None = None


def fresh(config: VilaConfig, tokenizer: PieceTokenizer, *, template: str | None = None) -> Loaded:
    """A network with random weights (from torch's global seed), sized for `tokenizer`."""
    tokenizer = tokenizer.with_image_end(config.image_end)
    fitted = config.with_vocabulary(len(tokenizer), bos=tokenizer.bos_id, eos=tokenizer.eos_id, pad=tokenizer.pad_id)
    style = choose_template(fitted, tokenizer, name=template)
    return Loaded(model=Vila(fitted), tokenizer=tokenizer, config=fitted, template=style)


def choose_template(config: VilaConfig, tokenizer: PieceTokenizer, *, name: str | None = None) -> Template:
    """The template asked for, or the checkpoint's own, or the one its tokenizer's markers tell.

    Raises:
        CheckpointError: unknown template, or one whose end tokens the tokenizer lacks.
    """
    chosen = name or config.template
    if chosen is None and config.llm.family == "qwen2":
        chosen = _by_its_words(tokenizer)
    if chosen is None:
        marked = {"<|eot_id|>": "llama_3", "<|im_end|>": "hermes-2"}
        chosen = next((style for token, style in marked.items() if tokenizer.token_id(token) is not None), "v1")
    style = template_named(chosen)
    style.stop_ids(tokenizer)
    return style


def _by_its_words(tokenizer: PieceTokenizer) -> str:
    """The template whose text the tokenizer brings: the markers of Qwen2 are those of several."""
    written = tokenizer.chat_template
    if written != template_named("qwen2").jinja:
        shown = "absent" if written is None else repr(written[:60])
        raise CheckpointError(
            f"tokenizer_config.json chat_template={shown}: is not NVILA's, and markers do not tell which "
            "template it was trained with; state it by `vilam3 model convert DIR "
            "--out NEW --template qwen2` or `hermes-2`"
        )
    return "qwen2"


def load(
    path: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
    template: str | None = None,
    stated: Stated = NOTHING_STATED,
    verify: bool = True,
) -> Loaded:
    """Load a checkpoint of either layout.

    Args:
        path: Its directory.
        dtype: Type to compute in; None keeps the stored one. Tensors already of that type stay mapped to the file.
        device: Where to put the network.
        template: Overrides the checkpoint's template.
        stated: What the files leave open.
        verify: Compare ``digests.json`` where there is one.

    Raises:
        CheckpointError: anything missing, damaged, of the wrong shape or unknown; names file and tensor.
    """
    layout = layout_of(path)
    if verify:
        verify_digests(path)
    config = read_config(path, stated=stated)
    tokenizer = load_tokenizer(path / "llm" if layout == "folders" else path)
    tokenizer = tokenizer.fitting(config.llm.vocab_size).with_image_end(config.image_end)
    style = choose_template(config, tokenizer, name=template)
    if len(tokenizer) > config.llm.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {len(tokenizer)} entries, the embedding only {config.llm.vocab_size}; "
            "take both from the same checkpoint"
        )
    model = empty(config)
    found = survey(path)
    mismatches = compare(model, found)
    _refuse(path, mismatches)
    wanted = {name: stored for name, stored in found.items() if name not in mismatches.unexpected}
    _fill(model, dict(shards.read(wanted, dtype)))
    if mismatches.unexpected:
        logger.warning("%s: tensors without a place are ignored: %s", path, _some(mismatches.unexpected))
    return Loaded(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        config=config,
        template=style,
        unexpected=mismatches.unexpected,
        origin=path,
    )


def save(
    loaded: Loaded, path: Path, *, layout: Layout = "folders", max_shard_bytes: int = shards.MAX_SHARD_BYTES
) -> None:
    """Write a checkpoint whole or not at all, with digests.

    Raises:
        ArtifactError: the file system refuses.
    """
    dtype = str(loaded.model.dtype)
    config = replace(loaded.config, model_dtype=dtype, template=loaded.template.name)
    state = _stored_state(loaded.model)
    with whole_directory(path) as root:
        for name in LICENCES:
            if loaded.origin is not None and (loaded.origin / name).is_file():
                shutil.copyfile(loaded.origin / name, root / name)
        _write_json(root / "config.json", config.root_json())
        if config.adapters is not None:
            state = _write_adapters(root, state, config)
        if layout == "flat":
            loaded.tokenizer.save(root)
            _write_json(root / "preprocessor_config.json", preprocessor_json(config))
            shards.write(state, root, max_shard_bytes=max_shard_bytes)
        else:
            _write_folders(root, state, config, max_shard_bytes)
            loaded.tokenizer.save(root / "llm")
        write_digests(root)


def filled(loaded: Loaded, weights: Mapping[str, Tensor]) -> Loaded:
    """The same network with these weights, which it shares; for saving what was trained in parts elsewhere."""
    model = empty(loaded.config)
    _fill(model, dict(weights))
    return replace(loaded, model=model)


def convert(
    source: Path,
    out: Path,
    *,
    layout: Layout,
    stated: Stated = NOTHING_STATED,
    max_shard_bytes: int = shards.MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint in the layout, weights bit for bit, with what is `stated` of it in its files.

    Raises:
        CheckpointError: `source` is not a whole checkpoint, or `out` is the same directory or holds something else.
    """
    refuse_to_replace(out, source=source)
    save(load(source, dtype=None, stated=stated), out, layout=layout, max_shard_bytes=max_shard_bytes)


def refuse_to_replace(out: Path, *, source: Path) -> None:
    """Before a checkpoint is made from another.

    Raises:
        CheckpointError: `out` is the same directory or holds something else.
    """
    if source.resolve() == out.resolve():
        raise CheckpointError(f"{out}: is the source itself; name another directory")
    if out.exists() and not (out / "config.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out}: exists and is not a checkpoint; name another directory")


def merged(loaded: Loaded, *, task: str) -> Loaded:
    """The network without its adapters, which does what it did for this task with them.

    Raises:
        UserError: it has no adapters, or a router among several experts.
        DataError: it has none for this task.
    """
    if loaded.config.adapters is None:
        raise UserError(f"{loaded.origin}: has no task adapters; there is nothing to merge")
    merge(loaded.model.llm.model.layers, loaded.config.adapters.number_of(task))
    config = replace(loaded.config, adapters=None)
    loaded.model.config = config
    return replace(loaded, config=config)


def layout_of(path: Path) -> Layout:
    """Which layout a directory has.

    Raises:
        CheckpointError: it is neither; the message says what is missing.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory; give the folder that holds config.json")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: holds no config.json; give the folder of a VILA-M3 checkpoint")
    present = [part for part in PARTS if (path / part).is_dir()]
    if not present and ((path / shards.SINGLE).is_file() or (path / shards.INDEX).is_file()):
        return "flat"
    missing = [part for part in PARTS if part not in present]
    if missing:
        raise CheckpointError(f"{path}: lacks the folder {missing[0]}/; copy it from the checkpoint")
    return "folders"


def read_config(path: Path, *, stated: Stated = NOTHING_STATED) -> VilaConfig:
    """The configuration of either layout, with what is `stated` of it.

    Raises:
        CheckpointError: a file is missing, unreadable or asks for what this model does not have.
    """
    root = _read_json(path / "config.json")
    if layout_of(path) == "folders":
        llm, vision, projector = (_read_json(path / part / "config.json") for part in PARTS)
    else:
        llm, vision, projector = (_section(path, root, f"{part}_cfg") for part in PARTS)
    try:
        config = parse_config(root, llm, vision, projector, stated=stated)
        return replace(config, adapters=read_adapters(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def survey(path: Path) -> dict[str, shards.Stored]:
    """Every stored tensor under its name in the network.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    found: dict[str, shards.Stored] = {}
    if (path / ADAPTERS).is_dir():
        found |= {f"llm.{name}": stored for name, stored in shards.survey(path / ADAPTERS).items()}
    if layout_of(path) == "flat":
        return _without_computed(found | shards.survey(path))
    for part in PARTS:
        found |= {f"{part}.{name}": stored for name, stored in shards.survey(path / part).items()}
    return _without_computed(found)


def _without_computed(found: Mapping[str, shards.Stored]) -> dict[str, shards.Stored]:
    return {name: stored for name, stored in found.items() if not name.endswith(COMPUTED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatches:
    """How stored tensors differ from what the configuration asks for; `misshapen` pairs each with its right shape."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[shards.Stored, tuple[int, ...]], ...]


def compare(model: Vila, found: Mapping[str, shards.Stored]) -> Mismatches:
    """Hold the stored tensors against the network's."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {TIED} if model.config.llm.tie_word_embeddings else set()
    return Mismatches(
        missing=tuple(name for name in wanted if name not in found and name not in optional),
        unexpected=tuple(name for name in found if name not in wanted),
        misshapen=tuple(
            (found[name], shape) for name, shape in wanted.items() if name in found and found[name].shape != shape
        ),
    )


def empty(config: VilaConfig) -> Vila:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return Vila(config)


def _refuse(path: Path, mismatches: Mismatches) -> None:
    if mismatches.misshapen:
        stored, shape = mismatches.misshapen[0]
        raise CheckpointError(
            f"{stored.file} tensor {stored.name}: shape {list(stored.shape)}, but the configuration asks for "
            f"{list(shape)}; take weights and config.json from the same checkpoint"
        )
    if mismatches.missing:
        part, _, name = mismatches.missing[0].partition(".")
        where = path / part if layout_of(path) == "folders" else path
        where = path / ADAPTERS if name.endswith(GATED) else where
        extra = f"; unexpected instead: {_some(mismatches.unexpected)}" if mismatches.unexpected else ""
        raise CheckpointError(
            f"{where}: lacks tensor {name} and {len(mismatches.missing) - 1} more{extra}; copy the weights again"
        )


def _fill(model: Vila, state: dict[str, Tensor]) -> None:
    """Put tensors in place of the memory-less ones, and compute the buffers that no file holds."""
    if model.config.llm.tie_word_embeddings:
        state.setdefault(TIED, state["llm.model.embed_tokens.weight"])
    model.load_state_dict(state, strict=True, assign=True)
    model.llm.tie_weights()
    model.llm.model.rotary_emb = type(model.llm.model.rotary_emb)(model.llm.config)
    model.vision_tower.fill_buffers()


def _stored_state(model: Vila) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    if model.config.llm.tie_word_embeddings:
        del state[TIED]
    return state


def _write_adapters(root: Path, state: Mapping[str, Tensor], config: VilaConfig) -> dict[str, Tensor]:
    """Put the adapters into their folder; returns what is left."""
    assert config.adapters is not None
    folder = root / ADAPTERS
    folder.mkdir()
    _write_json(folder / "config.json", config.adapters.to_json())
    own = {name.removeprefix("llm."): tensor for name, tensor in state.items() if name.endswith(GATED)}
    shards.write(own, folder)
    return {name: tensor for name, tensor in state.items() if not name.endswith(GATED)}


def _write_folders(root: Path, state: Mapping[str, Tensor], config: VilaConfig, max_shard_bytes: int) -> None:
    sections = (config.llm_json(), config.vision_json(), config.projector_json())
    for part, section in zip(PARTS, sections, strict=True):
        folder = root / part
        folder.mkdir()
        _write_json(folder / "config.json", section)
        own = {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(f"{part}.")}
        shards.write(own, folder, max_shard_bytes=max_shard_bytes)
    _write_json(root / "vision_tower" / "preprocessor_config.json", preprocessor_json(config))
    special = {"bos_token_id": config.llm.bos_token_id, "eos_token_id": config.llm.eos_token_id}
    _write_json(root / "llm" / "generation_config.json", {"_from_model_config": True, **special})


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: is missing; copy it from the checkpoint") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds {type(value).__name__}, not an object; copy it again")
    return value


def _section(path: Path, root: Mapping[str, Any], key: str) -> dict[str, Any]:
    section = root.get(key)
    if not isinstance(section, dict):
        raise CheckpointError(f"{path / 'config.json'} {key}: must hold that part's configuration; convert it again")
    return section


def _some(names: tuple[str, ...]) -> str:
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
