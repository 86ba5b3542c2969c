"""`vilam3 promote`: make a version the champion, if the gate let it pass."""

# ruff: noqa: PLC0415 - heavy imports stay inside the run function, so that --help is instant

import argparse
import json
from pathlib import Path

from vilam3.cli.main import Verbs

EXAMPLE = """\
Without a decision of the gate, with a failed one, or with one about another model, nothing is promoted. The champion
before becomes the rollback. Promotions are serialised; one that finds another champion than expected is refused.

example: vilam3 promote --recipe pipelines/recipes/tiny.toml --alias challenger --gate runs/latest/gate.json
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "promote",
        help="make a registered version the champion",
        description="Move the alias champion to a version that the gate let pass.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", type=Path, action="append", required=True, metavar="FILE", help="names the model")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--version", type=int, metavar="N", help="version to promote")
    which.add_argument("--alias", choices=("challenger",), help="promote the version of this alias")
    parser.add_argument("--gate", type=Path, required=True, metavar="FILE", help="the gate's decision, JSON")
    parser.add_argument("--expected-champion", type=int, metavar="N", help="refuse if another version is the champion")
    parser.add_argument("--name", metavar="NAME", help="registered model (default: as the recipe says)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="of the tracking store (runs)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Promote, and print the version as JSON."""
    from vilam3.recipe import load
    from vilam3.registration import promote_gated, read_decision

    names = load(arguments.recipe).tracking
    decision = read_decision(arguments.gate)
    from vilam3.tracking import connect

    tracking = connect(
        experiment=names.experiment, registered_model=arguments.name or names.registered_model, runs=arguments.runs
    )
    version = promote_gated(tracking, decision, number=arguments.version, expected_champion=arguments.expected_champion)
    print(json.dumps(version.to_json(), indent=2))
    return 0
