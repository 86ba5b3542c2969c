"""Byte-level tokenizers of the two published kinds: Llama 3's and Qwen2's, from merges that exist or to be trained.

The strings they rest on are facts, kept byte for byte in ``markers.toml``.
"""

import functools
import json
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

MarkersName = Literal["llama_3", "qwen2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Markers:
    """One kind; the fields are explained in ``markers.toml``."""

    split: str
    normal: str
    special: tuple[str, ...]
    bos: str
    eos: str
    pad: str
    opens_with_bos: bool
    tokenizer_class: str
    roles: tuple[str, ...]

    @property
    def names(self) -> dict[str, str]:
        """Its tokens by their part, as a tokenizer's files name them."""
        return {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}


@functools.cache
def markers_of(name: MarkersName) -> Markers:
    """The kind of that name."""
    text = resources.files("vilam3.model").joinpath("markers.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)[name]
    return Markers(**{**table, "special": tuple(table["special"]), "roles": tuple(table["roles"])})


def around(model: models.BPE, markers: Markers) -> Tokenizer:
    """A tokenizer of `model`, with what the kind does before and after it; it has no special token yet."""
    tokenizer = Tokenizer(model)
    if markers.normal == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(markers.split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def from_merges(files: Mapping[str, bytes]) -> Tokenizer:
    """Qwen2's tokenizer from ``vocab.json`` and ``merges.txt``, for a folder that holds no ``tokenizer.json``."""
    vocabulary = json.loads(files["vocab.json"])
    with tempfile.TemporaryDirectory() as folder:  # the library reads merges from a path alone
        merges = Path(folder) / "merges.txt"
        merges.write_bytes(files["merges.txt"])
        (Path(folder) / "vocab.json").write_bytes(files["vocab.json"])
        _, pairs = models.BPE.read_file(str(Path(folder) / "vocab.json"), str(merges))
    return around(models.BPE(vocab=vocabulary, merges=pairs), markers_of("qwen2"))
