"""The options of `vilam3 serve` that choose an engine and bound it; no heavy import, so that help is instant."""

import argparse
import json
from typing import Any

from vilam3.engines import EngineChoice
from vilam3.errors import UserError

NAMES = ("engine", "slots", "waiting", "memory_gib", "engine_options")


def add(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    plain = EngineChoice()
    group = parser.add_argument_group("the engine of --role single and vlm")
    group.add_argument("--engine", metavar="NAME", help=f"torch, or vllm where it is installed ({plain.kind})")
    group.add_argument("--slots", type=int, metavar="N", help=f"replies decoded side by side ({plain.slots})")
    group.add_argument("--waiting", type=int, metavar="N", help=f"requests that may wait besides ({plain.waiting})")
    group.add_argument(
        "--memory-gib",
        type=float,
        metavar="G",
        help=f"for what torch remembers of prompts and pictures ({plain.memory_gib:g})",
    )
    group.add_argument("--engine-options", metavar="JSON", help="of vllm, such as '{\"tensor_parallel_size\": 2}'")


def choice(arguments: argparse.Namespace) -> EngineChoice:
    """The engine that was chosen.

    Raises:
        UserError: a number or the JSON is none.
    """
    given: dict[str, Any] = {
        "kind": arguments.engine,
        "slots": arguments.slots,
        "waiting": arguments.waiting,
        "memory_gib": arguments.memory_gib,
        "options": None if arguments.engine_options is None else _options(arguments.engine_options),
    }
    chosen = EngineChoice(**{name: value for name, value in given.items() if value is not None})
    if chosen.slots < 1 or chosen.waiting < 0 or not 0 <= chosen.memory_gib < float("inf"):
        raise UserError("--slots, --waiting, --memory-gib: give at least one slot, and nothing below nought")
    return chosen


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise UserError(f"--engine-options {text}: not JSON ({error}); write it as '{{\"name\": value}}'") from error
    if not isinstance(options, dict):
        raise UserError(f"--engine-options {text}: not an object; write it as '{{\"name\": value}}'")
    return options
