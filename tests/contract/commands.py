"""Whether the program takes a command line; shared by the contracts that hold documents and manifests to it."""

from collections.abc import Sequence

from vilam3.cli.main import build_parser


def exit_code(words: Sequence[str]) -> object:
    """What parsing comes to; --help and --version stop with 0."""
    try:
        build_parser().parse_args(list(words))
    except SystemExit as stopped:
        return stopped.code
    return 0
