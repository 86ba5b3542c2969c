"""The slow Llama tokenizer (``legacy=False``) on the sentencepiece library.

Facts reproduced, of transformers 4.37.2 ``LlamaTokenizer``, which VILA pins: a text gets one leading "▁" of its own;
special tokens are cut out first, longest match at the leftmost place; what lies between is encoded without the dummy
prefix, and a part that begins with a blank is encoded behind ``<unk>`` so that sentencepiece keeps that blank.
transformers 5 builds a different, fast tokenizer under the same class name, so it is not used here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sentencepiece import SentencePieceProcessor

UNDERLINE = "▁"
Span = tuple[int, int]
# A protobuf reader merges repeated submessages, so appending `normalizer_spec {add_dummy_prefix: false}` (fields 3 and
# 3) to a serialised model changes that one setting, and no protobuf runtime is needed.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceBackend:
    """A ``tokenizer.model`` with the begin token in front."""

    def __init__(self, content: bytes, *, added: Mapping[int, str], config: Mapping[str, Any]) -> None:
        """Load the model.

        Args:
            content: Bytes of ``tokenizer.model``.
            added: Tokens by id that the configuration adds to the model's own.
            config: ``tokenizer_config.json`` over ``special_tokens_map.json``.
        """
        self.processor = _without_dummy_prefix(content)
        self.unk = _content(config.get("unk_token"), "<unk>")
        special = [_content(config.get(role), default) for role, default in _ROLES.items()]
        own = {self.processor.piece_to_id(token): token for token in special if self._is_own(token)}
        self.added = {**own, **added}
        self.ids = {token: index for index, token in self.added.items()}
        self.size = max(self.processor.get_piece_size(), *(index + 1 for index in self.added))
        self.leading = [self.ids[_content(config.get("bos_token"), "<s>")]] if config.get("add_bos_token", True) else []
        longest_first = sorted(self.ids, key=len, reverse=True)
        self.markers = re.compile("(" + "|".join(re.escape(token) for token in longest_first) + ")")
        self.unk_length = len(self.processor.encode(self.unk, out_type=str))

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and character spans, the begin token first."""
        ids, spans = list(self.leading), [(0, 0)] * len(self.leading)
        if not text:
            return ids, spans
        prefixed = UNDERLINE + text.replace(UNDERLINE, " ")
        at = -1  # the prefix stands for no character of the text
        parts = [part for part in self.markers.split(prefixed) if part]
        for index, part in enumerate(parts):
            if part in self.ids:
                ids.append(self.ids[part])
                spans.append((at, at + len(part)))
            elif not (index == 0 and part == UNDERLINE and len(parts) > 1):
                part_ids, part_spans = self._encode_part(part)
                ids.extend(part_ids)
                spans.extend((max(begin + at, 0), max(end + at, 0)) for begin, end in part_spans)
            at += len(part)
        return ids, spans

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; the blank that the prefix put in front is taken off."""
        kept = [index for index in ids if index not in self.added]
        if not kept:
            return ""
        text: str = self.processor.decode(kept)
        begins_with_prefix = self.processor.id_to_piece(kept[0]).startswith(UNDERLINE)
        return text[1:] if begins_with_prefix and text.startswith(" ") else text

    def token_id(self, token: str) -> int | None:
        """Id of one exact token, or None."""
        if token in self.ids:
            return self.ids[token]
        return int(self.processor.piece_to_id(token)) if self._is_own(token) else None

    def _is_own(self, token: str) -> bool:
        index = self.processor.piece_to_id(token)
        return bool(self.processor.id_to_piece(index) == token)

    def _encode_part(self, part: str) -> tuple[list[int], list[Span]]:
        keeps_blank = part.startswith((UNDERLINE, " "))
        fed = self.unk + part if keeps_blank else part
        encoded: dict[str, Any] = self.processor.encode(fed, out_type="offset_mapping")
        ids, spans = encoded["ids"], encoded["offsets"]
        skipped = self.unk_length if keeps_blank and len(ids) >= self.unk_length else 0
        shift = len(self.unk) if keeps_blank else 0
        return ids[skipped:], [(begin - shift, end - shift) for begin, end in spans[skipped:]]


_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}


def _content(token: object, default: str) -> str:
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else default


def _without_dummy_prefix(content: bytes) -> SentencePieceProcessor:
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(content + NO_DUMMY_PREFIX)
    return processor
