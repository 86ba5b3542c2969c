"""What a stage starts from: the corpus's samples, the network, and the digest that names all of it."""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from vilam3 import __version__
from vilam3.artifacts import sha256_file, sha256_tree, whole_directory, write_json
from vilam3.data.held_out import choose, parted
from vilam3.data.llava import read_samples
from vilam3.data.mixture import mixture_of
from vilam3.data.sample import Sample
from vilam3.data.shards import MANIFEST, ShardIndex, parse_index, read_index
from vilam3.dialogue.phrases import protocol_phrases
from vilam3.errors import CheckpointError, DataError, NotFoundError, RecipeError
from vilam3.model import checkpoint
from vilam3.model.chat import template
from vilam3.model.checkpoint import Loaded
from vilam3.model.tokenizer import PieceTokenizer, train_tiny
from vilam3.objects import open_store
from vilam3.recipe import Recipe
from vilam3.settings import STAGES, Stage
from vilam3.train.batches import Encoding, Examples, Feed, Pictures
from vilam3.train.low_rank import families_of
from vilam3.train.network import network_config
from vilam3.train.packing import Packing
from vilam3.train.record import digest_of, weights_digest
from vilam3.train.sharded import patiently
from vilam3.train.streamed import inputs_folder, open_stream, samples_of
from vilam3.weights import fetch


def inputs_of(recipe: Recipe, *, stage: str, corpus: Path, base: Path | None) -> dict[str, str]:
    """Digests of everything the stage's weights follow from.

    Raises:
        DataError: the corpus lacks its manifest or a dataset of the mixture.
        CheckpointError: `base` is not a directory.
    """
    settings = recipe.stage(stage)
    learning = {
        "seed": recipe.seed,
        "model": recipe.model.model_dump(mode="json"),
        "stage": settings.model_dump(mode="json"),
        "name": stage,
    }
    if base is not None and not base.is_dir():
        raise CheckpointError(f"{base}: no such directory; give the checkpoint the stage starts from")
    return {
        "recipe": digest_of(learning),
        "corpus": _corpus_digest(corpus, settings),
        "base": "" if base is None else weights_digest(base),
        "program": f"vilam3 {__version__}, torch {torch.__version__}",
    }


def brought(place: str) -> Path:
    """The local path of a corpus or checkpoint; what is in S3 comes once to this machine, whole or not at all.

    Raises:
        UserError: the place is not understood.
        NotFoundError: there is nothing there.
        ArtifactError: the store refuses or is out of reach.
    """
    if "://" not in place:
        return Path(place)
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    above, _, name = parts.path.strip("/").rpartition("/")
    listed = sorted(map(repr, open_store(f"{parts.scheme}://{parts.netloc}/{above}").entries(name or "none")))
    folder = inputs_folder()
    here = folder / digest_of({"place": place, "objects": listed})[:24]  # other contents are another copy
    with (folder / f"{here.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not here.is_dir():
            fetch(place, here)
    return here


def brought_corpus(place: str) -> Path:
    """As `brought`, but of a corpus in shards the index alone: it tells where they are fetched from when needed.

    Raises:
        DataError: the index is damaged.
        VilaM3Error: as `brought`.
    """
    if not place.startswith("s3://"):
        return brought(place)
    store = open_store(place)
    try:
        text = patiently(lambda: store.get(MANIFEST))
    except NotFoundError:
        return brought(place)
    index = parse_index(text, where=f"{place}/{MANIFEST}")
    if index is None:
        return brought(place)
    if "://" not in index.at:
        index = index.model_copy(update={"at": f"{place.rstrip('/')}/{index.at}"})
    manifest = index.manifest()
    here = inputs_folder() / digest_of({"index": manifest})[:24]
    if not here.is_dir():
        with whole_directory(here) as partial:
            write_json(partial / MANIFEST, manifest)
    return here


def starting_network(recipe: Recipe, *, stage: str, corpus: Path, base: Path | None) -> Loaded:
    """Load `base`, or build a network with fresh weights and a tokenizer trained on the corpus.

    Raises:
        RecipeError: only the first stage of a recipe with a vocabulary may start from nothing.
    """
    if base is not None:
        return checkpoint.load(base, template=recipe.model.template)
    if not recipe.starts_from_nothing(stage):
        raise RecipeError(
            f"stage {stage}: needs a checkpoint to start from; only {STAGES[0]} of a recipe with model.vocab_size "
            "starts from nothing; pass --base"
        )
    torch.manual_seed(recipe.seed)
    return checkpoint.fresh(network_config(recipe.model), _tokenizer(recipe, corpus), template=recipe.model.template)


def make_feed(recipe: Recipe, *, stage: str, corpus: Path, loaded: Loaded) -> Feed:
    """The stage's batches.

    Raises:
        DataError: a dataset of the mixture is absent, empty or unreadable.
    """
    settings = recipe.stage(stage)
    encoding = Encoding(
        tokenizer=loaded.tokenizer,
        template=template(settings.template or recipe.model.template),
        max_tokens=min(settings.max_tokens, loaded.config.max_tokens),
        tokens_per_image=loaded.config.tokens_per_image,
        normalise=recipe.model.image_whitespace == "published",
        families=families_of(settings),
    )
    packing = Packing(capacity=encoding.max_tokens, rows=settings.packed_rows) if settings.packed_rows else None
    skips, size = settings.corrupt_images_max > 0, loaded.config.vision.image_size
    weights = {name: weight for name, weight in sorted(settings.mixture.items()) if weight}
    index = read_index(corpus)
    if index is None:
        learned, held_out = _split(corpus, settings, seed=recipe.seed)
        mixture = mixture_of({name: len(found) for name, found in learned.items()}, weights, seed=recipe.seed)
        return Feed(
            {name: Examples(name, found, encoding) for name, found in learned.items()},
            Pictures(corpus, size=size),
            order=mixture,
            packing=packing,
            skips=skips,
            held_out={name: Examples(name, found, encoding) for name, found in held_out.items()},
        )
    _refuse_unknown(corpus, index, settings)
    _refuse_too_few(corpus, index, settings)
    stream = open_stream(corpus, index, weights=weights, seed=recipe.seed)
    return Feed(
        stream.examples(encoding),
        stream.pictures(size=size),
        order=stream,
        packing=packing,
        skips=skips,
        held_out=stream.held_out(encoding) if settings.validation_samples else None,
    )


def _split(
    corpus: Path, stage: Stage, *, seed: int
) -> tuple[Mapping[str, Sequence[Sample]], Mapping[str, Sequence[Sample]]]:
    """What is to be learned, and what is held out."""
    samples = {name: read_samples(path) for name, path in _files(corpus, stage).items()}
    if not stage.validation_samples:
        return samples, {}
    every = (one for found in samples.values() for one in found)
    learned, held_out = parted(samples, choose(every, at_least=stage.validation_samples, seed=seed))
    if empty := sorted(name for name, found in learned.items() if not found and samples[name]):
        raise RecipeError(
            f"validation_samples={stage.validation_samples}: nothing of {empty[0]} would be left; hold out fewer"
        )
    return learned, held_out


def _files(corpus: Path, stage: Stage) -> dict[str, Path]:
    return {name: _file(corpus, name) for name, weight in sorted(stage.mixture.items()) if weight}


def _file(corpus: Path, name: str) -> Path:
    path = corpus / "samples" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (corpus / "samples").glob("*.json"))) or "none"
        raise DataError(f"mixture.{name}: {path} does not exist; the corpus has the datasets {known}")
    return path


def _refuse_unknown(corpus: Path, index: ShardIndex, stage: Stage) -> None:
    for name, weight in sorted(stage.mixture.items()):
        if weight and name not in index.datasets:
            known = ", ".join(sorted(index.datasets))
            raise DataError(f"mixture.{name}: {corpus / MANIFEST} has no such dataset; the corpus has {known}")


def _refuse_too_few(corpus: Path, index: ShardIndex, stage: Stage) -> None:
    """Which samples are held out was decided when the shards were written."""
    held_out = sum(size for name, size in index.held_out_sizes.items() if stage.mixture.get(name))
    if held_out < stage.validation_samples:
        raise RecipeError(
            f"validation_samples={stage.validation_samples}: {corpus / MANIFEST} has {held_out} held out of this "
            "stage's datasets; write the shards with a larger --held-out, or lower this"
        )


def _corpus_digest(corpus: Path, stage: Stage) -> str:
    """Of its index, or over the datasets used and the corpus's own digest, or all pictures where it states none."""
    index = read_index(corpus)
    if index is not None:
        _refuse_unknown(corpus, index, stage)
        return index.digest
    stated = json.loads((corpus / MANIFEST).read_text(encoding="utf-8")).get("digest")
    files = {name: sha256_file(path) for name, path in _files(corpus, stage).items()}
    return digest_of({"samples": files, "pictures": stated or sha256_tree(corpus / "images")})


def _tokenizer(recipe: Recipe, corpus: Path) -> PieceTokenizer:
    assert recipe.model.vocab_size is not None
    said = _texts(_all_samples(corpus))
    style = template(recipe.model.template)
    return train_tiny(
        [style.system, *said],
        vocab_size=recipe.model.vocab_size,
        phrases=protocol_phrases(style.system),
        markers="qwen2" if "<|im_end|>" in style.stops else "llama_3",
        chat_template=style.jinja,
    )


def _all_samples(corpus: Path) -> Iterator[Sample]:
    """Of all datasets, in the order of their files' names."""
    index = read_index(corpus)
    if index is not None:
        return samples_of(corpus, index)
    return (sample for path in sorted((corpus / "samples").glob("*.json")) for sample in read_samples(path))


def _texts(samples: Iterable[Sample]) -> Iterable[str]:
    return (turn.text for sample in samples for turn in sample.turns)
