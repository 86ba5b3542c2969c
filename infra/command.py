"""What the command lines of this folder share: how a parser is made, and how an error is told."""

import argparse
import sys
from collections.abc import Sequence

from vilam3.errors import VilaM3Error


def parser(package: str, *, description: str, examples: str) -> argparse.ArgumentParser:
    """The parser of ``python -m PACKAGE``, to which verbs are added; each verb sets `run`."""
    return argparse.ArgumentParser(
        prog=f"python -m {package}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(program: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Run one verb; 0 done, 2 your input or machine, 1 our fault."""
    given = program.parse_args(words)
    try:
        return int(given.run(given))
    except VilaM3Error as error:
        say(f"{given.verb}: {error}")
        return error.exit_code


def say(sentence: str) -> None:
    """Tell what goes on, beside what a verb prints."""
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - a command line
