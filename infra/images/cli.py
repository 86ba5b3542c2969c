"""The command line: ``python -m infra.images VERB``; parses, calls and prints."""

# ruff: noqa: T201 - it prints

import argparse
from collections.abc import Sequence
from pathlib import Path

from infra import command
from infra.images import builder, debian
from infra.images.catalogue import IMAGES, REGISTRY, find

EXAMPLES = """\
example: python -m infra.images build ops cpu
         python -m infra.images archive cpu --out cpu.tar
"""


def main(words: Sequence[str]) -> int:
    """Run one verb; 0 done, 2 your input or machine, 1 our fault."""
    return command.run(build_parser(), words)


def build_parser() -> argparse.ArgumentParser:
    """The tree of verbs."""
    parser = command.parser("infra.images", description="The container images of vilam3.", examples=EXAMPLES)
    parser.add_argument("--registry", default=REGISTRY, metavar="NAME", help=f"first part of names ({REGISTRY})")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser("build", help="build images, with docker where it answers, else with buildah")
    build.add_argument("roles", nargs="+", metavar="ROLE", help=", ".join(IMAGES))
    build.add_argument("--engine", choices=("docker", "buildah"), help="default: what can be used")
    build.set_defaults(run=_build)
    archive = verbs.add_parser("archive", help="write an image that buildah built as an OCI archive")
    archive.add_argument("role", metavar="ROLE", help=", ".join(IMAGES))
    archive.add_argument("--out", type=Path, required=True, metavar="FILE", help="the archive")
    archive.add_argument("--thin", action="store_true", help="for a node that has its environment already")
    archive.set_defaults(run=_archive)
    verbs.add_parser("prune", help="remove what images of earlier locks were built on").set_defaults(run=_prune)
    return parser


def _prune(_: argparse.Namespace) -> int:
    builder.prune(say=command.say)
    return 0


def _build(given: argparse.Namespace) -> int:
    images = [find(role) for role in given.roles]
    engine = given.engine or builder.choose()
    for image in images:
        print(builder.build(image, registry=given.registry, engine=engine, say=command.say))
    return 0


def _archive(given: argparse.Namespace) -> int:
    image = find(given.role)
    without = image.environment(debian.reference()) if given.thin and image.has_environment else ""
    print(builder.store().write_archive(image.name(given.registry), out=given.out, without=without))
    return 0
