"""Numbers of the model on given inputs, so that anyone can hold it against another implementation.

One case is one JSON line: either messages, assembled into a prompt as the published demo does, or raw token ids.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vilam3.artifacts import whole_directory, write_json
from vilam3.data.sample import IMAGE_TOKEN
from vilam3.errors import DataError
from vilam3.model.batching.loop import Limits
from vilam3.model.chat import Speaker, embedded_length, render
from vilam3.model.checkpoint import Loaded
from vilam3.model.config import IMAGE_TOKEN_ID
from vilam3.model.engine import TorchEngine

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
OUTPUT = re.compile(r".*\.(json|npz)$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextContent(_Strict):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class ImageContent(_Strict):
    """One image, or several in order, for the ``<image>`` places of the text."""

    type: Literal["image_path"]
    image_path: str | list[str]


class ProbeMessage(_Strict):
    """One message; every role but user speaks as the assistant, as in the published demo."""

    role: Literal["user", "assistant"]
    content: list[Annotated[TextContent | ImageContent, Field(discriminator="type")]]


class MessagesCase(_Strict):
    """A conversation."""

    name: Name
    messages: Annotated[list[ProbeMessage], Field(min_length=1)]


class TokensCase(_Strict):
    """Raw token ids with -200 at each image."""

    name: Name
    input_ids: Annotated[list[int], Field(min_length=1)]
    images: list[str] = []


Case = MessagesCase | TokensCase


def read_cases(path: Path) -> list[Case]:
    """Read a JSON Lines file of cases.

    Raises:
        DataError: the file is missing, a line is not a case, or a name is used twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable text file ({error}); give a JSON Lines file") from error
    cases: list[Case] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cases.append(_case(path, number, line))
        if cases[-1].name in {case.name for case in cases[:-1]}:
            raise DataError(f"{path} line {number}: the name {cases[-1].name!r} is used twice; give each case its own")
    if not cases:
        raise DataError(f"{path}: holds no case; write one JSON object a line")
    return cases


def probe(
    loaded: Loaded,
    cases: Sequence[Case],
    out: Path,
    *,
    images_root: Path,
    num_greedy: int = 24,
    cue: bool | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write ``<name>.json`` and ``<name>.npz`` for each case into `out`, all or none.

    Args:
        loaded: The network, in float32 for comparisons.
        cases: Of `read_cases`.
        out: Directory; an earlier probe's is replaced.
        images_root: Where relative image paths start.
        num_greedy: Most tokens of the greedy continuation; its end token is included, nothing is forbidden.
        cue: Whether the prompt ends in the assistant's cue; None does as the published demo, which adds it for
            ``llama_3`` and ``qwen2`` only.
        on_progress: Called with the name of each finished case.

    Raises:
        DataError: a case cannot be used, or `out` holds something else than an earlier probe.
    """
    if out.exists() and (not out.is_dir() or any(not OUTPUT.match(file.name) for file in out.iterdir())):
        raise DataError(f"{out}: exists and is not the output of an earlier probe; name another directory")
    engine = TorchEngine(loaded, limits=Limits(slots=1, prefix_bytes=0))  # nothing of one case is used for another
    with closing(engine), whole_directory(out) as folder:
        for case in cases:
            _probe_case(engine, case, folder, images_root=images_root, num_greedy=num_greedy, cue=cue)
            on_progress(case.name)


def _probe_case(
    engine: TorchEngine, case: Case, folder: Path, *, images_root: Path, num_greedy: int, cue: bool | None
) -> None:
    prompt, loaded = None, engine.loaded
    if isinstance(case, MessagesCase):
        style = loaded.template
        prompt = render(_spoken(case), style, cue=style.demo_cue if cue is None else cue).text
        input_ids = loaded.tokenizer.encode_with_images(prompt)
        paths = _paths(case)
    else:
        input_ids, paths = case.input_ids, case.images
    _check(case.name, input_ids, paths, vocab_size=loaded.config.llm.vocab_size)
    pictures = [_open(case.name, images_root / path) for path in paths]
    try:
        trace = engine.trace(input_ids, pictures, max_new=num_greedy)
    except DataError as error:
        raise DataError(f"case {case.name}: {error}") from error
    record = {
        "prompt": prompt,
        "input_ids": input_ids,
        "n_embedded": embedded_length(input_ids, loaded.config.tokens_per_image),
        "greedy_ids": list(trace.ids),
    }
    write_json(folder / f"{case.name}.json", record)
    np.savez(folder / f"{case.name}.npz", last_logprobs=trace.logprobs_TV[0].numpy().astype(np.float32))


def _case(path: Path, number: int, line: str) -> Case:
    try:
        value = json.loads(line)
        is_tokens = isinstance(value, dict) and "input_ids" in value
        return TokensCase.model_validate(value) if is_tokens else MessagesCase.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} line {number} {where}: {first['msg']}; see `vilam3 model probe --help`") from error
    except ValueError as error:
        raise DataError(f"{path} line {number}: not JSON ({error}); write one object a line") from error


def _spoken(case: MessagesCase) -> list[tuple[Speaker, str]]:
    return [
        (message.role, "".join(part.text for part in message.content if isinstance(part, TextContent)))
        for message in case.messages
    ]


def _paths(case: MessagesCase) -> list[str]:
    paths: list[str] = []
    for message in case.messages:
        for part in message.content:
            if isinstance(part, ImageContent):
                paths.extend([part.image_path] if isinstance(part.image_path, str) else part.image_path)
    return paths


def _check(name: str, input_ids: Sequence[int], paths: Sequence[str], *, vocab_size: int) -> None:
    places = sum(index == IMAGE_TOKEN_ID for index in input_ids)
    if places != len(paths):
        raise DataError(f"case {name}: has {places} {IMAGE_TOKEN} places but {len(paths)} images; they must agree")
    for index in input_ids:
        if index != IMAGE_TOKEN_ID and not 0 <= index < vocab_size:
            raise DataError(f"case {name}: token id {index} is outside the vocabulary of {vocab_size}")


def _open(name: str, path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"case {name}: {path}: not a readable image ({error}); give a PNG or JPEG file") from error
