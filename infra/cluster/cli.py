"""The command line: ``python -m infra.cluster VERB``; parses, calls and prints, and decides nothing."""

# ruff: noqa: T201 - it prints

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from infra import command
from infra.cluster import choice, tools
from infra.cluster.layout import DEFAULT, Layout
from infra.cluster.plan import LEVELS, OPERATORS
from infra.cluster.provider import Provider

EXAMPLES = """\
example: python -m infra.cluster up --level api
         export KUBECONFIG=$(python -m infra.cluster kubeconfig)
         $(python -m infra.cluster tool kubectl) get nodes
         python -m infra.cluster down
"""


def main(words: Sequence[str]) -> int:
    """Run one verb; 0 done, 2 your input or machine, 1 our fault."""
    return command.run(build_parser(), words)


def build_parser() -> argparse.ArgumentParser:
    """The tree of verbs."""
    parser = command.parser("infra.cluster", description="A real Kubernetes for tests.", examples=EXAMPLES)
    parser.add_argument("--root", type=Path, default=DEFAULT, metavar="DIR", help=f"its files (default: {DEFAULT})")
    parser.add_argument("--provider", choices=choice.PROVIDERS, default="auto", help="default: auto")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="bring the cluster up")
    up.add_argument("--level", choices=LEVELS, default="node", help="how much of it (default: node)")
    up.add_argument(
        "--operators",
        nargs="+",
        choices=OPERATORS,
        default=OPERATORS,
        metavar="NAME",
        help=f"of level full: {', '.join(OPERATORS)} (default: all)",
    )
    up.set_defaults(run=_up)
    verbs.add_parser("down", help="remove the cluster and everything it left").set_defaults(run=_down)
    verbs.add_parser("status", help="say what runs; 1 when nothing does").set_defaults(run=_status)
    verbs.add_parser("kubeconfig", help="print where the kubeconfig lies").set_defaults(run=_kubeconfig)
    load = verbs.add_parser("load-image", help="import an image archive into the node")
    load.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE", help="OCI or docker archive")
    load.set_defaults(run=_load_image)
    tool = verbs.add_parser("tool", help="print the path of a program, building it if need be")
    tool.add_argument("name", metavar="NAME", help=", ".join(sorted(tools.TOOLS)))
    tool.set_defaults(run=_tool)
    build = verbs.add_parser("build", help="build programs (default: all of them)")
    build.add_argument("names", nargs="*", metavar="NAME", help="as for tool")
    build.set_defaults(run=_build)
    return parser


def _present(given: argparse.Namespace) -> Provider:
    return choice.for_present(given.provider, layout=_layout(given), say=command.say)


def _layout(given: argparse.Namespace) -> Layout:
    return Layout(given.root.absolute())


def _up(given: argparse.Namespace) -> int:
    began = time.monotonic()
    provider = choice.for_new(given.provider, level=given.level, layout=_layout(given), say=command.say)
    provider.up(given.level, operators=given.operators)
    print(f"up in {time.monotonic() - began:.1f} s; export KUBECONFIG={provider.kubeconfig}")
    return 0


def _down(given: argparse.Namespace) -> int:
    _present(given).down()
    return 0


def _status(given: argparse.Namespace) -> int:
    status = _present(given).status()
    print("\n".join(status.lines))
    return 0 if status.up else 1


def _kubeconfig(given: argparse.Namespace) -> int:
    print(_present(given).kubeconfig)
    return 0


def _load_image(given: argparse.Namespace) -> int:
    provider = _present(given)
    for archive in given.archives:
        print("\n".join(provider.load_image(archive)))
    return 0


def _tool(given: argparse.Namespace) -> int:
    print(tools.path(given.name, say=command.say))
    return 0


def _build(given: argparse.Namespace) -> int:
    for name in given.names or sorted(tools.TOOLS):
        began = time.monotonic()
        program = tools.path(name, say=command.say)
        print(f"{name:24} {time.monotonic() - began:6.1f} s  {program}")
    return 0
