"""`vilam3`: the argparse tree and the exit codes (0 done, 2 your input, 1 our fault).

A verb is a module of this package with ``register(verbs)``, which adds a parser and sets ``run`` to a function of the
parsed arguments. Verbs that wire a framework live in a leaf folder and arrive through the entry-point group
``vilam3.verbs``; where the leaf is absent the verb says so.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TypeAlias

from vilam3 import __version__
from vilam3.errors import VilaM3Error

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse names no public type for it
VERBS = (
    "prepare",
    "corpus",
    "train",
    "launch",
    "evaluate",
    "register",
    "promote",
    "ask",
    "experts",
    "model",
    "graph",
    "doctor",
)
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    try:
        return run(arguments) or 0
    except VilaM3Error as error:
        print(f"vilam3: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("vilam3: interrupted; finished steps are kept, run the same command to go on", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The whole tree; a contract test feeds every generated command line to it."""
    parser = argparse.ArgumentParser(
        prog="vilam3",
        description="Train, gate, serve and question VILA-M3. Results are drafts for a clinician, for research use.",
        epilog="example: vilam3 ask --image scan.dcm 'Is there a hepatic tumor?'",
    )
    parser.add_argument("--version", action="version", version=f"vilam3 {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name in VERBS:
        importlib.import_module(f"vilam3.cli.{name}").register(verbs)
    for leaf in sorted(entry_points(group="vilam3.verbs"), key=lambda point: point.name):
        _register_leaf(leaf, verbs)
    return parser


def _register_leaf(leaf: EntryPoint, verbs: Verbs) -> None:
    try:
        leaf.load()(verbs)
    except ModuleNotFoundError as error:
        missing = error.name
        # No option begins with NUL, so whatever follows the verb is taken and the sentence is all there is to say.
        text = f"(needs {missing}, which is not installed here)"
        parser = verbs.add_parser(leaf.name, help=text, prefix_chars="\0", add_help=False)
        parser.add_argument("rest", nargs="*")
        parser.set_defaults(run=lambda _: _say_absent(leaf, missing))


def _say_absent(leaf: EntryPoint, missing: str | None) -> int:
    print(
        f"vilam3 {leaf.name}: {missing} is not installed here; run it from a checkout of the project or in its image",
        file=sys.stderr,
    )
    return 2
