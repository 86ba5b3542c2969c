"""Both layouts there and back, and every kind of damage refused in one sentence that names file and tensor."""

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vilam3.errors import CheckpointError
from vilam3.model.checkpoint import Loaded, convert, empty, fresh, layout_of, load, read_config, save
from vilam3.model.config import VilaConfig
from vilam3.model.inspect import inspect
from vilam3.model.tokenizer import PieceTokenizer

PROJECTOR = "mm_projector/model.safetensors"


def _same(one: Loaded, other: Loaded) -> bool:
    mine, others = one.model.state_dict(), other.model.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def _logits(loaded: Loaded) -> torch.Tensor:
    size = loaded.config.vision.image_size
    pixels = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size).to(loaded.model.dtype)
    with torch.no_grad():
        logits: torch.Tensor = loaded.model(torch.tensor([[1, -200, 2]]), pixels).logits_BLV
    return logits


def test_three_folders_there_and_back(loaded: Loaded, saved: Path) -> None:
    """Sharded, with an index; weights, configuration, tokenizer, template and numbers are the same."""
    again = load(saved)
    assert len(list((saved / "llm").glob("model-*.safetensors"))) > 2
    assert _same(loaded, again)
    assert again.config.vision == loaded.config.vision
    assert again.config.llm == loaded.config.llm
    assert again.config.prompt_dialect == "training"
    assert again.template == loaded.template
    assert again.tokenizer.files == loaded.tokenizer.files
    assert not again.model.training
    assert torch.equal(_logits(again), _logits(loaded))


def test_tensor_names_are_the_published_ones(saved: Path) -> None:
    vision = {name for file in (saved / "vision_tower").glob("*.safetensors") for name in load_file(file)}
    assert {
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.encoder.layers.2.self_attn.out_proj.bias",
        "vision_model.post_layernorm.weight",
        "vision_model.head.probe",
        "vision_model.head.attention.in_proj_weight",
        "vision_model.head.mlp.fc2.bias",
    } <= vision
    assert all(name.startswith("vision_model.") for name in vision)
    assert set(load_file(saved / PROJECTOR)) == {f"layers.{i}.{kind}" for i in (1, 2, 4) for kind in ("weight", "bias")}
    weight_map = json.loads((saved / "llm/model.safetensors.index.json").read_text())["weight_map"]
    assert {
        "model.embed_tokens.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    } <= (set(weight_map))


def test_the_root_configuration_has_the_published_keys(saved: Path) -> None:
    root = json.loads((saved / "config.json").read_text())
    assert root["architectures"] == ["LlavaLlamaModel"]
    assert root["model_type"] == "llava_llama"
    assert root["llm_cfg"]["architectures"] == ["LlamaForCausalLM"]
    assert root["vision_tower_cfg"]["architectures"] == ["SiglipVisionModel"]
    assert root["mm_projector_cfg"]["mm_projector_type"] == "mlp_downsample"
    assert (root["mm_vision_select_layer"], root["mm_vision_select_feature"]) == (-2, "cls_patch")
    assert (root["hidden_size"], root["mm_hidden_size"], root["image_aspect_ratio"]) == (32, 16, "resize")
    assert root["vilam3"] == {"prompt_dialect": "training", "template": "llama_3"}


def test_flat_there_and_back(loaded: Loaded, saved: Path, tmp_path: Path) -> None:
    """Folders to flat to folders: bit for bit, with the prefixes that one directory needs."""
    convert(saved, tmp_path / "flat", layout="flat", max_shard_bytes=60_000)
    convert(tmp_path / "flat", tmp_path / "folders", layout="folders")
    assert layout_of(tmp_path / "flat") == "flat"
    assert layout_of(tmp_path / "folders") == "folders"
    assert _same(loaded, load(tmp_path / "flat"))
    assert _same(loaded, load(tmp_path / "folders"))
    names = json.loads((tmp_path / "flat/model.safetensors.index.json").read_text())["weight_map"]
    assert {name.partition(".")[0] for name in names} == {"llm", "vision_tower", "mm_projector"}


def test_converting_onto_itself_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="is the source itself"):
        convert(saved, saved, layout="flat")


def test_converting_onto_something_else_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        convert(saved, tmp_path, layout="flat")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_half_precision_is_kept_or_widened(loaded: Loaded, tmp_path: Path) -> None:
    """bfloat16 on disk loads as it is when asked, else as float32 with the same values."""
    half = fresh(loaded.config, loaded.tokenizer)
    half.model.load_state_dict(loaded.model.state_dict())
    half.model.to(torch.bfloat16)
    save(half, tmp_path / "half")
    kept, widened = load(tmp_path / "half", dtype=None), load(tmp_path / "half")
    assert kept.model.dtype == torch.bfloat16
    assert kept.config.model_dtype == "torch.bfloat16"
    assert _same(kept, half)
    assert widened.model.dtype == torch.float32
    name = "mm_projector.layers.2.weight"
    assert torch.equal(widened.model.state_dict()[name], half.model.state_dict()[name].float())


def test_training_a_mapped_model_leaves_the_file_alone(copy: Path) -> None:
    again = load(copy)
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.add_(1.0)
    load(copy)  # digests still match


def test_tied_embeddings_there_and_back(config: VilaConfig, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    tied = fresh(replace(config, llm=replace(config.llm, tie_word_embeddings=True)), tokenizer)
    save(tied, tmp_path / "tied")
    again = load(tmp_path / "tied")
    assert again.model.llm.lm_head.weight is again.model.llm.model.embed_tokens.weight
    assert _same(tied, again)


def test_a_published_checkpoint_needs_no_key_of_ours(undigested: Path) -> None:
    """Without our key the template follows from the tokenizer, and the dialect is the published demo's."""
    root = json.loads((undigested / "config.json").read_text())
    del root["vilam3"]
    (undigested / "config.json").write_text(json.dumps(root))
    again = load(undigested)
    assert (again.template.name, again.config.prompt_dialect) == ("llama_3", "demo")


def test_computed_buffers_of_older_files_are_no_surprise(undigested: Path) -> None:
    file = next((undigested / "vision_tower").glob("*.safetensors"))
    _retensor(file, lambda t: t.update({"vision_model.embeddings.position_ids": torch.zeros(1, 9)}))
    assert load(undigested).unexpected == ()


def test_unexpected_tensors_are_listed_and_ignored(undigested: Path) -> None:
    tensors = load_file(undigested / PROJECTOR)
    save_file({**tensors, "layers.9.weight": torch.zeros(3)}, undigested / PROJECTOR)
    assert load(undigested).unexpected == ("mm_projector.layers.9.weight",)
    assert inspect(undigested).unexpected == ("mm_projector.layers.9.weight",)
    assert inspect(undigested).is_usable


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _retensor(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _absent_shard(root: Path) -> None:
    next((root / "llm").glob("model-00002-of-*.safetensors")).unlink()


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("no folder", lambda r: (r / "vision_tower").rename(r / "vt"), r"lacks the folder vision_tower/"),
    ("no root config", lambda r: (r / "config.json").unlink(), r"holds no config\.json"),
    ("no part config", lambda r: (r / "llm/config.json").unlink(), r"llm/config\.json: is missing"),
    ("no weights", lambda r: (r / PROJECTOR).unlink(), r"mm_projector: holds neither model\.safetensors nor"),
    (
        "absent shard",
        _absent_shard,
        r"index\.json: names shard model-00002-of-\d+\.safetensors for tensor \S+, which is",
    ),
    (
        "truncated",
        lambda r: _truncate(r / PROJECTOR),
        r"mm_projector/model\.safetensors tensor layers\.\d\.\w+: the file ends",
    ),
    (
        "empty file",
        lambda r: (r / PROJECTOR).write_bytes(b""),
        r"model\.safetensors: its first bytes are not the header",
    ),
    (
        "wrong shape",
        lambda r: _retensor(r / PROJECTOR, lambda t: t.update({"layers.4.bias": torch.zeros(7)})),
        r"mm_projector/model\.safetensors tensor layers\.4\.bias: shape \[7\], but the configuration asks for \[32\]",
    ),
    (
        "missing tensor",
        lambda r: _retensor(r / PROJECTOR, lambda t: t.pop("layers.4.bias")),
        r"mm_projector: lacks tensor layers\.4\.bias and 0 more",
    ),
    (
        "renamed tensor",
        lambda r: _retensor(r / PROJECTOR, lambda t: t.update({"layers.3.bias": t.pop("layers.4.bias")})),
        r"lacks tensor layers\.4\.bias and 0 more; unexpected instead: mm_projector\.layers\.3\.bias",
    ),
    (
        "wrong type",
        lambda r: _retensor(r / PROJECTOR, lambda t: t.update({"layers.4.bias": torch.zeros(32, dtype=torch.int32)})),
        r"tensor layers\.4\.bias: type 'I32' is none of",
    ),
    (
        "index not JSON",
        lambda r: _truncate(r / "llm/model.safetensors.index.json"),
        r"index\.json: not a readable weight index",
    ),
    (
        "index outside",
        lambda r: _edit(r / "llm/model.safetensors.index.json", lambda v: v["weight_map"].update({"a": "../b"})),
        r"tensor a is placed in '\.\./b', outside its folder",
    ),
    (
        "index wrong",
        lambda r: _edit(
            r / "llm/model.safetensors.index.json",
            lambda v: v["weight_map"].update({"a": "model-00001-of-00004.safetensors"}),
        ),
        r"safetensors",
    ),
    ("config not JSON", lambda r: _truncate(r / "config.json"), r"config\.json: not readable as JSON"),
    ("config a list", lambda r: (r / "config.json").write_text("[]"), r"config\.json: holds list, not an object"),
    (
        "unknown template",
        lambda r: _edit(r / "config.json", lambda v: v["vilam3"].update(template="chatty")),
        r"template 'chatty': unknown; use one of v1",
    ),
    (
        "unknown dialect",
        lambda r: _edit(r / "config.json", lambda v: v["vilam3"].update(prompt_dialect="x")),
        r"prompt_dialect='x': unknown; use one of training, demo",
    ),
    (
        "tiling",
        lambda r: _edit(r / "config.json", lambda v: v.update(s2=True)),
        r"config\.json s2=True: only False is supported",
    ),
    (
        "other projector",
        lambda r: _edit(r / "mm_projector/config.json", lambda v: v.update(mm_projector_type="linear")),
        r"mm_projector_type='linear': only 'mlp_downsample'",
    ),
    (
        "other tower",
        lambda r: _edit(r / "vision_tower/config.json", lambda v: v.update(model_type="intern_vit")),
        r"only SigLIP .* and InternViT .* are supported",
    ),
    (
        "spread not a number",
        lambda r: _edit(r / "llm/config.json", lambda v: v.update(initializer_range=None)),
        r"llm/config\.json initializer_range=None: must be a number",
    ),
    (
        "size not a number",
        lambda r: _edit(r / "llm/config.json", lambda v: v.update(hidden_size="many")),
        r"llm/config\.json hidden_size='many': must be a positive whole number",
    ),
    (
        "heads do not divide",
        lambda r: _edit(r / "llm/config.json", lambda v: v.update(num_attention_heads=5)),
        r"hidden_size=32: not a multiple of num_attention_heads=5",
    ),
    (
        "size missing",
        lambda r: _edit(r / "llm/config.json", lambda v: v.pop("vocab_size")),
        r"llm/config\.json: lacks vocab_size",
    ),
    (
        "layer beyond the tower",
        lambda r: _edit(r / "config.json", lambda v: v.update(mm_vision_select_layer=-9)),
        r"mm_vision_select_layer=-9: must count from the end of 3 layers",
    ),
    (
        "small embedding",
        lambda r: _edit(r / "llm/config.json", lambda v: v.update(vocab_size=9)),
        r"the tokenizer has \d+ entries, the embedding only 9",
    ),
    ("no tokenizer", lambda r: (r / "llm/tokenizer.json").unlink(), r"neither tokenizer\.json nor tokenizer\.model"),
]


@pytest.mark.parametrize(("damage", "says"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_damage_is_refused_and_named(undigested: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(undigested)
    with pytest.raises(CheckpointError, match=says) as raised:
        load(undigested)
    assert "\n" not in str(raised.value)


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        load(tmp_path / "absent")


def test_any_flipped_byte_of_a_header_is_noticed_or_harmless(undigested: Path, loaded: Loaded) -> None:
    """Even without digests: either refused in one sentence, or the very same weights."""
    file = undigested / PROJECTOR
    good = file.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    for place in np.random.default_rng(0).choice(8 + length, size=60, replace=False):
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 7)
        file.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            assert _same(loaded, load(undigested))


def test_one_flipped_byte_anywhere_is_refused(copy: Path) -> None:
    """Weights, configuration, tokenizer, index, and the digests themselves."""
    random = np.random.default_rng(0)
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        good = file.read_bytes()
        damaged = bytearray(good)
        damaged[random.integers(len(good))] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(copy)
        file.write_bytes(good)
    load(copy)


def test_verification_can_be_left_out(copy: Path) -> None:
    (copy / "vision_tower/preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: its SHA-256 is not the one recorded"):
        load(copy)
    assert load(copy, verify=False).template.name == "llama_3"


def test_a_file_that_vanished_is_named(copy: Path) -> None:
    (copy / "llm/generation_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"generation_config\.json: recorded in digests\.json but absent"):
        load(copy)


def test_inspection_counts_without_loading(loaded: Loaded, copy: Path) -> None:
    (copy / "LLAMA3-LICENSE").write_text("terms")
    found = inspect(copy)
    assert found.parameters["total"] == sum(parameter.numel() for parameter in loaded.model.parameters())
    assert found.num_bytes == 4 * found.parameters["total"]
    assert (found.layout, found.template, found.licences) == ("folders", "llama_3", ("LLAMA3-LICENSE",))
    assert found.is_usable
    assert found.has_digests
    json.dumps(found.as_json())


def test_inspection_reports_what_does_not_match(undigested: Path) -> None:
    _retensor(undigested / PROJECTOR, lambda t: (t.pop("layers.1.bias"), t.update({"layers.4.bias": torch.zeros(2)})))
    found = inspect(undigested)
    assert found.missing == ("mm_projector.layers.1.bias",)
    assert found.misshapen == ("layers.4.bias: [2] instead of [32]",)
    assert not found.is_usable


def test_licence_files_go_along(copy: Path, tmp_path: Path) -> None:
    (copy / "LICENSE").write_text("terms")
    convert(copy, tmp_path / "flat", layout="flat")
    assert (tmp_path / "flat/LICENSE").read_text() == "terms"


def test_configurations_written_by_newer_transformers_are_read(undigested: Path) -> None:
    """`rope_parameters` instead of two keys."""
    _edit(
        undigested / "llm/config.json",
        lambda v: (
            v.pop("rope_theta"),
            v.update(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}),
        ),
    )
    llm = read_config(undigested).llm
    assert llm.rope_theta == 5e5
    assert llm.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert load(undigested).model.llm.model.rotary_emb.attention_scaling == 1.0


def test_presets_have_the_published_sizes() -> None:
    expected = {
        "3b": (2560, 32, 20, 20, 6912, 32000, 4096, 10000.0, "v1"),
        "8b": (4096, 32, 32, 8, 14336, 128257, 8192, 500000.0, "llama_3"),
        "13b": (5120, 40, 40, 40, 13824, 32000, 4096, 10000.0, "v1"),
    }
    for name, sizes in expected.items():
        config = VilaConfig.preset(name)  # type: ignore[arg-type]  # the keys are the type
        llm = config.llm
        assert sizes == (
            llm.hidden_size,
            llm.num_hidden_layers,
            llm.num_attention_heads,
            llm.num_key_value_heads,
            llm.intermediate_size,
            llm.vocab_size,
            llm.max_position_embeddings,
            llm.rope_theta,
            config.template,
        )
        assert config.max_tokens == 4096
    tiny = VilaConfig.preset("tiny")
    assert (tiny.vision.grid, tiny.tokens_per_image) == (9, 25)
    with pytest.raises(CheckpointError, match="'70b': unknown; use one of tiny, 3b, 8b, 13b"):
        VilaConfig.preset("70b")  # type: ignore[arg-type]  # that is the point


def test_parameter_counts_are_those_of_the_published_files() -> None:
    """The 8B language model with its extra [PAD] row, and SigLIP with the head that is stored but not used."""
    model = empty(VilaConfig.preset("8b"))
    assert sum(parameter.numel() for parameter in model.vision_tower.parameters()) == 428_225_600
    assert sum(parameter.numel() for parameter in model.llm.parameters()) == 8_030_261_248 + 2 * 4096
    assert 2 * sum(parameter.numel() for parameter in model.mm_projector.parameters()) == 71_337_984
