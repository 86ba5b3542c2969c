"""`vilam3 prepare`: draw the phantom corpus of a recipe."""

import argparse
from pathlib import Path

from vilam3.cli.main import Verbs

EXAMPLE = """example:
  vilam3 prepare --recipe pipelines/recipes/tiny.toml --out runs/corpus
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "prepare",
        help="draw synthetic patients and write conversations, questions and expert material",
        description="Draw the phantom patients of a recipe and write the corpus that training and evaluation read.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", type=Path, action="append", required=True, help="TOML file; repeat to override")
    parser.add_argument("--out", type=Path, required=True, help="corpus directory to write, whole or not at all")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415 - --help stays instant
    from rich.progress import Progress  # noqa: PLC0415 - likewise

    from vilam3.corpus.build import build_corpus  # noqa: PLC0415 - likewise
    from vilam3.errors import RecipeError  # noqa: PLC0415 - likewise
    from vilam3.recipe import load  # noqa: PLC0415 - likewise

    recipe = load(arguments.recipe)
    if recipe.corpus is None:
        raise RecipeError(f"{arguments.recipe[-1]}: has no [corpus] section; add one, or train on data of your own")
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("patients", total=None)
        manifest = build_corpus(
            recipe.corpus,
            arguments.out,
            seed=recipe.seed,
            dialect=recipe.model.dialect,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    samples = ", ".join(f"{count} {name}" for name, count in manifest["samples"].items())
    held = " and ".join(f"{count} {split} questions" for split, count in manifest["questions"].items())
    print(f"{arguments.out}: {samples}; {held}; digest {manifest['digest'][:12]}")
    return 0
