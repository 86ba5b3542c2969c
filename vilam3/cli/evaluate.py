"""`vilam3 evaluate`: measure a checkpoint without and with experts, and hold it against the gate."""

import argparse
from pathlib import Path

from vilam3.cli.main import Verbs

EXAMPLE = """\
DIR gets comparison.json, both evaluations, gate.json (the decision against the recipe's floors) and examples/, one
conversation for each expert with its pictures.

example:
  cd runs/latest
  vilam3 evaluate --recipe TINY.toml --checkpoint model --corpus corpus --experts experts --out evaluation
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="measure a model without and with experts",
        description="Ask a model every held-out question without and with experts, and let the gate decide.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--recipe", type=Path, action="append", required=True, metavar="FILE", help="TOML; repeat to override by later"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="a checkpoint")
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="a prepared corpus")
    parser.add_argument("--experts", type=Path, required=True, metavar="DIR", help="directory of the expert bundles")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="written whole or not at all")
    parser.add_argument(
        "--champion", type=Path, metavar="FILE", help="comparison.json of the champion on the same questions"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, decide, print the table; 2 when the gate refuses."""
    from rich.console import Console  # noqa: PLC0415 - keeps --help instant

    from vilam3.artifacts import write_json  # noqa: PLC0415 - likewise
    from vilam3.evaluate.assess import assess  # noqa: PLC0415 - likewise
    from vilam3.evaluate.gate import decide  # noqa: PLC0415 - likewise
    from vilam3.evaluate.results import Comparison  # noqa: PLC0415 - likewise
    from vilam3.progress import reporting  # noqa: PLC0415 - likewise
    from vilam3.recipe import load  # noqa: PLC0415 - likewise
    from vilam3.report.summary import accuracy_table  # noqa: PLC0415 - likewise

    recipe = load(arguments.recipe)
    champion = None if arguments.champion is None else Comparison.read(arguments.champion)
    with reporting("evaluate") as progress:
        found = assess(
            recipe,
            checkpoint=arguments.checkpoint,
            corpus=arguments.corpus,
            experts=arguments.experts,
            out=arguments.out,
            on_progress=progress,
        )
    decision = decide(found.comparison, policy=recipe.gate, champion=champion)
    write_json(arguments.out / "gate.json", decision.model_dump(mode="json"))
    Console().print(accuracy_table(found.comparison))
    for reason in decision.reasons:
        print(f"gate: {reason}")
    print("gate: passed" if decision.passed else "gate: refused")
    return 0 if decision.passed else 2
