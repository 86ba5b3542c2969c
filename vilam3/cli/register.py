"""`vilam3 register`: make a finished checkpoint a version in MLflow, and the challenger."""

# ruff: noqa: PLC0415 - heavy imports stay inside the run function, so that --help is instant

import argparse
import json
from pathlib import Path

from vilam3.cli.main import Verbs

EXAMPLE = """\
The weights stay where they are; the version points to them. Registering the same weights again changes nothing.

example: vilam3 register --recipe pipelines/recipes/tiny.toml --checkpoint runs/stage4 --evaluation comparison.json
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "register",
        help="make a checkpoint a registered version",
        description="Register the output of a training stage, with its evaluation, as the challenger.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", type=Path, action="append", required=True, metavar="FILE", help="names the model")
    parser.add_argument(
        "--checkpoint", required=True, metavar="PLACE", help="output of a training stage: a folder, or s3://"
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="comparison of vilam3 evaluate on these weights"
    )
    parser.add_argument("--name", metavar="NAME", help="registered model (default: as the recipe says)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="of the tracking store (runs)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Register, and print the version as JSON."""
    from vilam3.evaluate.results import Comparison
    from vilam3.recipe import load
    from vilam3.registration import register_checkpoint

    names = load(arguments.recipe).tracking
    comparison = None if arguments.evaluation is None else Comparison.read(arguments.evaluation)
    from vilam3.tracking import connect

    tracking = connect(
        experiment=names.experiment, registered_model=arguments.name or names.registered_model, runs=arguments.runs
    )
    version = register_checkpoint(tracking, arguments.checkpoint, comparison=comparison)
    print(json.dumps(version.to_json(), indent=2))
    return 0
