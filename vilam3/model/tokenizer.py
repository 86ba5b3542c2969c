"""Text to token ids and back, piecewise around images, for both kinds of published tokenizer.

The 8B checkpoint brings a ``tokenizer.json`` (Llama-3), NVILA one of Qwen2 or its parts, the 3B and 13B ones a
sentencepiece ``tokenizer.model`` that was trained against the slow Llama tokenizer with ``legacy=False``; see
`vilam3.model.slow_tokenizer`. A text is split at each literal ``<image>`` and every piece is tokenized on its own, as
NVlabs/VILA 355fda9 ``tokenizer_image_token`` does; NVILA's code, where the image is a marker in the vocabulary, makes
the same pieces of it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers

from vilam3.data.sample import IMAGE_TOKEN
from vilam3.errors import CheckpointError
from vilam3.model.byte_level import Markers, MarkersName, around, from_merges, markers_of
from vilam3.model.config import IMAGE_TOKEN_ID
from vilam3.model.slow_tokenizer import SentencePieceBackend

Span = tuple[int, int]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
# NVILA's code adds these as it loads a tokenizer, and may leave them in its files; its embedding need not hold them.
MEDIA_MARKERS = frozenset({"<vila/sentinel>", "<image>", "<vila/video>"})
NO_TEXT: Span = (-1, -1)  # of a token that no text made and nobody learns
ROLE_WEIGHT = 1000  # texts beyond any rare word, so that the roles are merged first


class Backend(Protocol):
    """One tokenizer library."""

    size: int

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and character spans of `text`, markers in it recognised, with the leading token where there is one."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens; unfinished UTF-8 shows as U+FFFD."""
        ...

    def token_id(self, token: str) -> int | None:
        """Id of one exact token."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """A tokenized text with images.

    Attributes:
        input_ids: Token ids with `IMAGE_TOKEN_ID` at each image.
        spans: Character span of each entry in the whole text; empty at its place for a token that stands for no text.
    """

    input_ids: list[int]
    spans: list[Span]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PieceTokenizer:
    """A tokenizer with its special ids and its files.

    Attributes:
        backend: The library behind it.
        bos_id: Begin token or None.
        eos_id: End token.
        pad_id: Padding token or None.
        files: Its files by name, kept byte for byte for saving.
        image_end: Ids that follow every image of their own accord.
    """

    backend: Backend
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    files: Mapping[str, bytes] = field(repr=False)
    image_end: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Vocabulary size, added tokens included."""
        return self.backend.size

    @property
    def chat_template(self) -> str | None:
        """The template that its files bring, in jinja."""
        if "chat_template.jinja" in self.files:
            return self.files["chat_template.jinja"].decode("utf-8", errors="replace")
        found = json.loads(self.files.get("tokenizer_config.json", b"{}")).get("chat_template")
        return found if isinstance(found, str) else None

    def with_image_end(self, text: str) -> "PieceTokenizer":
        """The same, with the ids of `text` behind every image."""
        return replace(self, image_end=tuple(self.backend.encode(text)[0]) if text else ())

    def fitting(self, num_embeddings: int) -> "PieceTokenizer":
        """The same without the last media markers, where a network has no embeddings for them; text makes none then."""
        if len(self) <= num_embeddings or "tokenizer.json" not in self.files:
            return self
        table = json.loads(self.files["tokenizer.json"])
        beyond = {token["content"] for token in table["added_tokens"] if token["id"] >= num_embeddings}
        if not beyond <= MEDIA_MARKERS:
            return self
        table["added_tokens"] = [token for token in table["added_tokens"] if token["id"] < num_embeddings]
        return replace(self, backend=FastBackend(Tokenizer.from_str(json.dumps(table))))

    def encode_pieces(self, text: str) -> Pieces:
        """Tokenize around each ``<image>``; only the first piece keeps the begin token."""
        ids: list[int] = []
        spans: list[Span] = []
        offset = 0
        drop_bos = False
        for index, piece in enumerate(text.split(IMAGE_TOKEN)):
            if index:
                ids += [IMAGE_TOKEN_ID, *self.image_end]
                spans += [(offset - len(IMAGE_TOKEN), offset), *(NO_TEXT for _ in self.image_end)]
            piece_ids, piece_spans = self.backend.encode(piece)
            start = 1 if drop_bos else 0
            ids.extend(piece_ids[start:])
            spans.extend((begin + offset, end + offset) for begin, end in piece_spans[start:])
            # Upstream decides by the first piece alone whether pieces begin with the begin token.
            drop_bos = drop_bos or (index == 0 and piece_ids[:1] == [self.bos_id])
            offset += len(piece) + len(IMAGE_TOKEN)
        return Pieces(input_ids=ids, spans=spans)

    def encode_with_images(self, text: str) -> list[int]:
        """Token ids of `text` with `IMAGE_TOKEN_ID` at each ``<image>``."""
        return self.encode_pieces(text).input_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return self.backend.decode(ids)

    def token_id(self, token: str) -> int | None:
        """Id of one exact token, or None."""
        return self.backend.token_id(token)

    def save(self, folder: Path) -> None:
        """Write its files into `folder`."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


class FastBackend:
    """``tokenizer.json`` through the `tokenizers` library."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a ready tokenizer."""
        self.tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """See `Backend`."""
        encoding = self.tokenizer.encode(text, add_special_tokens=True)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """See `Backend`; the tokenizer's optional blank clean-up is not applied, so text is what was generated."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def token_id(self, token: str) -> int | None:
        """See `Backend`."""
        found: int | None = self.tokenizer.token_to_id(token)
        return found


def load_tokenizer(folder: Path) -> PieceTokenizer:
    """Read the tokenizer of a published ``llm/`` folder or of a flat checkpoint.

    Raises:
        CheckpointError: no tokenizer, or an unreadable one.
    """
    files = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
    return from_files(files, where=folder)


def from_files(files: Mapping[str, bytes], *, where: Path) -> PieceTokenizer:
    """Build a tokenizer from its files' contents; `where` is for messages.

    Raises:
        CheckpointError: no tokenizer, or an unreadable one.
    """
    config = _json(files, "tokenizer_config.json", where)
    special = {**_json(files, "special_tokens_map.json", where), **config}
    is_slow = "tokenizer.model" in files and (
        "tokenizer.json" not in files or config.get("tokenizer_class") == "LlamaTokenizer"
    )
    has_merges = {"vocab.json", "merges.txt"} <= files.keys()
    if not is_slow and "tokenizer.json" not in files and not has_merges:
        raise CheckpointError(
            f"{where}: holds neither tokenizer.json nor tokenizer.model; copy one from the checkpoint"
        )
    added = _added_tokens(config, _json(files, "added_tokens.json", where))
    backend: Backend
    try:
        if is_slow:
            backend = SentencePieceBackend(files["tokenizer.model"], added=added, config=special)
        elif "tokenizer.json" in files:
            backend = FastBackend(_fast(Tokenizer.from_str(files["tokenizer.json"].decode("utf-8")), added))
        else:
            backend = FastBackend(_fast(from_merges(files), added))
    except Exception as error:  # the tokenizers library raises bare Exception on a bad file
        name = "tokenizer.model" if is_slow else "tokenizer.json" if "tokenizer.json" in files else "vocab.json"
        raise CheckpointError(f"{where / name}: not a readable tokenizer ({error}); copy the file again") from error
    eos = _special_id(backend, special, "eos_token")
    if eos is None:
        raise CheckpointError(f"{where}: tokenizer_config.json names no eos_token that the vocabulary holds")
    return PieceTokenizer(
        backend=backend,
        bos_id=_special_id(backend, special, "bos_token"),
        eos_id=eos,
        pad_id=_special_id(backend, special, "pad_token"),
        files=dict(files),
    )


def train_tiny(
    texts: Iterable[str],
    *,
    vocab_size: int,
    phrases: Sequence[str] = (),
    markers: MarkersName = "llama_3",
    chat_template: str = "",
) -> PieceTokenizer:
    """Train a byte-level BPE tokenizer with a published word split and markers; the same texts give the same tokenizer.

    Args:
        texts: What it should be good at.
        vocab_size: Upper bound, markers and phrases included; fewer entries when the texts hold no more merges.
        phrases: Constant strings that become one piece each wherever they occur.
        markers: Whose split and markers.
        chat_template: Conversation template to be told by its files; empty tells none.
    """
    kind = markers_of(markers)
    tokenizer = around(models.BPE(), kind)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(kind.special) - len(phrases),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # every message opens with a role between markers; texts hold no roles, so their merges are asked for here
    tokenizer.train_from_iterator(chain(texts, kind.roles * ROLE_WEIGHT), trainer=trainer)
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in phrases])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in kind.special])
    if kind.opens_with_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A", special_tokens=[(kind.bos, tokenizer.token_to_id(kind.bos))]
        )
    return from_files(_written(tokenizer, kind, chat_template), where=Path("tiny tokenizer"))


def _written(tokenizer: Tokenizer, kind: Markers, chat_template: str) -> dict[str, bytes]:
    config: dict[str, Any] = {
        **kind.names,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "tokenizer_class": kind.tokenizer_class,
    }
    if chat_template:
        config["chat_template"] = chat_template
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2, sort_keys=True).encode(),
        "special_tokens_map.json": json.dumps(kind.names, indent=2, sort_keys=True).encode(),
    }


def _fast(tokenizer: Tokenizer, added: Mapping[int, str]) -> Tokenizer:
    missing = [token for _, token in sorted(added.items()) if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    return tokenizer


def _added_tokens(config: Mapping[str, Any], added_json: Mapping[str, int]) -> dict[int, str]:
    added = {index: token for token, index in added_json.items()}
    for index, token in (config.get("added_tokens_decoder") or {}).items():
        added[int(index)] = token["content"]
    return added


def _special_id(backend: Backend, special: Mapping[str, Any], role: str) -> int | None:
    token = special.get(role)
    content = token.get("content") if isinstance(token, Mapping) else token
    return backend.token_id(content) if isinstance(content, str) else None


def _json(files: Mapping[str, bytes], name: str, where: Path) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        value = json.loads(files[name])
    except ValueError as error:
        raise CheckpointError(f"{where / name}: not readable as JSON ({error}); copy the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where / name}: holds {type(value).__name__}, not an object; copy the file again")
    return value
