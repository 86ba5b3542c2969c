"""Write docs/cli.md from the parsers themselves: ``python -m vilam3.cli.reference --out docs/cli.md``.

The text does not go through argparse's own formatter, whose layout differs between Python versions and terminals.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vilam3.artifacts import write_text
from vilam3.cli.main import build_parser

HEADER = """# The command line

Generated from the program by `make docs`; a test compares the two. Exit codes: 0 done, 2 your input, 1 our fault.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the reference."""
    parser = argparse.ArgumentParser(prog="python -m vilam3.cli.reference", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write, whole or not at all")
    write_text(parser.parse_args(argv).out, render(build_parser()))
    return 0


def render(parser: argparse.ArgumentParser) -> str:
    """The whole tree below `parser` as Markdown."""
    sections = [HEADER, *(section for verb in verbs_of(parser) for section in _sections(verb, level=2))]
    return "\n".join(sections)


def _sections(parser: argparse.ArgumentParser, *, level: int) -> Iterator[str]:
    verbs = list(verbs_of(parser))
    lines = [f"{'#' * level} `{parser.prog}`\n"]
    if parser.description:
        lines.append(f"{parser.description.strip()}\n")
    if not verbs:
        lines.append(f"```\n{_usage(parser)}\n```\n")
    if rows := [_row(action) for action in _arguments(parser)]:
        lines.append("\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n")
    if parser.epilog:
        lines.append(f"```\n{parser.epilog.strip()}\n```\n")
    yield "\n".join(lines)
    for verb in verbs:
        yield from _sections(verb, level=level + 1)


def verbs_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers one level below `parser`."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to walk a tree
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            parsers: dict[str, argparse.ArgumentParser] = action.choices
            yield from parsers.values()


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in parser._actions  # noqa: SLF001 - argparse has no public way to walk a tree
        if action.nargs != argparse.PARSER and action.dest != "help" and action.help is not argparse.SUPPRESS
    ]


def _usage(parser: argparse.ArgumentParser) -> str:
    positionals = [_spelling(action) for action in _arguments(parser) if not action.option_strings]
    needed = [_spelling(action) for action in _arguments(parser) if action.option_strings and action.required]
    needed += [
        f"({' | '.join(map(_spelling, group._group_actions))})"  # noqa: SLF001 - argparse has no public way to walk a tree
        for group in parser._mutually_exclusive_groups  # noqa: SLF001 - likewise
        if group.required
    ]
    optional = any(action.option_strings and not action.required for action in _arguments(parser))
    return " ".join([parser.prog, *needed, *(["[options]"] if optional else []), *positionals])


def _row(action: argparse.Action) -> str:
    value = f" `{_value(action)}`" if _value(action) else ""
    names = ", ".join(f"`{name}`" for name in action.option_strings) + value
    meaning = " ".join((action.help or "").split()) % _facts(action)
    required = " (required)" if action.required and action.option_strings else ""
    return f"| {_cell(names.strip())} | {_cell(meaning + required)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _facts(action: argparse.Action) -> dict[str, object]:
    """What argparse lets a help text quote, such as %(default)s."""
    choices = None if action.choices is None else ", ".join(str(choice) for choice in action.choices)
    return {"default": action.default, "dest": action.dest, "metavar": action.metavar, "choices": choices}


def _spelling(action: argparse.Action) -> str:
    return " ".join(part for part in (*action.option_strings[-1:], _value(action)) if part)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        name = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    else:
        name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return {"*": f"[{name} ...]", "+": f"{name} [...]", "?": f"[{name}]"}.get(str(action.nargs), name)


if __name__ == "__main__":
    sys.exit(main())
