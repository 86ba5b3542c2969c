"""`vilam3 train`: run one stage of a recipe, go on with it, or take over a finished one."""

# ruff: noqa: PLC0415 - heavy imports stay inside the run function, so that --help is instant

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vilam3.cli import plan
from vilam3.cli.main import Verbs

if TYPE_CHECKING:
    from vilam3.recipe import Recipe
    from vilam3.train.launch import Launch
    from vilam3.train.news import Teller
    from vilam3.train.record import StageResult
    from vilam3.train.stage import OnProgress

EXAMPLE = """\
A stage that was interrupted goes on where its last checkpoint is; a finished one is taken over at once. With --launcher
ray several processes share every batch, on this machine or, within a Ray job, on its cluster.
Exit code 75: asked to end, the state is saved, run it again.

example: vilam3 train --recipe pipelines/recipes/tiny.toml --stage stage1_align --corpus runs/corpus --out runs/stage1
example: vilam3 train --recipe pipelines/recipes/vila-m3-8b.toml --plan --accelerator h100 --price 2.5
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "train",
        help="run one training stage",
        description="Train one stage of a recipe on a prepared corpus and write a checkpoint, whole or not at all.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--recipe", type=Path, action="append", metavar="FILE", help="TOML; repeat to override by later")
    given.add_argument("--resolved-recipe", metavar="JSON", help="instead: the text that --dry-run prints")
    parser.add_argument("--stage", metavar="NAME", help="such as stage4_expert; --plan does without and plans them all")
    parser.add_argument("--corpus", metavar="PLACE", help="a prepared corpus: a folder or s3://")
    parser.add_argument(
        "--base", default="", metavar="PLACE", help="checkpoint to start from, likewise; stage 1 may do without"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the checkpoint, written whole or not at all")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="of the tracking store (runs)")
    parser.add_argument("--no-tracking", action="store_true", help="log nothing to MLflow")
    parser.add_argument("--progress-file", type=Path, metavar="FILE", help="keep the newest progress here as JSON")
    parser.add_argument(
        "--news", metavar="URI", help="keep the newest progress, and how it ended, in this object of a store (s3://)"
    )
    parser.add_argument(
        "--unwatched-s",
        type=float,
        metavar="S",
        help="with --news: save the state and end when whoever launched this has left no mark there for so long",
    )
    _register_launch(parser)
    parser.add_argument(
        "--preflight",
        action="store_true",
        help="look at machines, links, disks, clocks and the store, and train nothing",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and stop")
    plan.add_options(parser)
    parser.set_defaults(run=run)


def _register_launch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launcher",
        choices=("local", "torchrun", "ray"),
        default="local",
        help="one process; processes that torchrun started; or processes that Ray starts and replaces (local)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="with ray: processes (the stage's devices)")
    parser.add_argument(
        "--strategy",
        choices=("ddp", "zero1", "zero2", "zero3", "fsdp2"),
        help="how processes divide the model (the stage's zero_stage, ddp for 0)",
    )
    parser.add_argument(
        "--checkpoints", metavar="URI", help="with ray or torchrun: file:///folder or s3://bucket/prefix (beside --out)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, and print what came of it as JSON."""
    from vilam3.errors import RecipeError
    from vilam3.recipe import load, parse_resolved

    recipe = load(arguments.recipe) if arguments.recipe else parse_resolved(arguments.resolved_recipe)
    if arguments.plan:
        return plan.run(recipe, arguments)
    if arguments.stage is None:
        raise RecipeError(f"vilam3 train: --stage is required; this recipe has {', '.join(recipe.stage_names)}")
    recipe.stage(arguments.stage)
    if arguments.dry_run:
        print(json.dumps(json.loads(recipe.resolved_json()), indent=2))
        return 0
    if arguments.preflight:
        return _preflight(arguments, recipe)
    if arguments.corpus is None or arguments.out is None:
        raise RecipeError("vilam3 train: --corpus and --out are required; give both, or --dry-run")
    result = _told(arguments, recipe)
    shown = {key: value for key, value in result.to_json().items() if key != "losses"}
    if _is_first():
        print(json.dumps({**shown, "out": str(arguments.out), "is_reused": result.is_reused}, indent=2))
    return 0


def _is_first() -> bool:
    """Of those that torchrun started, one speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def _told(arguments: argparse.Namespace, recipe: "Recipe") -> "StageResult":
    """Train, and tell of it here and, where asked to, in the object store."""
    from vilam3.progress import reporting
    from vilam3.train.launch import model_uri
    from vilam3.train.news import telling

    telling_it = telling(arguments.news, unwatched_s=arguments.unwatched_s, is_first=_is_first())
    with telling_it as teller, reporting(arguments.stage, file=arguments.progress_file) as progress:

        def report(step: int, steps: int, loss: float, seconds_left: float) -> None:
            progress(step, steps, loss, seconds_left)
            if teller is not None:
                teller(step, steps, loss, seconds_left)

        how = _how(arguments)
        result = _train(arguments, recipe, how, report, teller)
        if teller is not None:
            teller.finished(model_uri(result, out=arguments.out, how=how))
        return result


def _how(arguments: argparse.Namespace) -> "Launch":
    from vilam3.train.launch import Launch, process_began_s

    return Launch(
        launcher=arguments.launcher,
        workers=arguments.workers,
        strategy=arguments.strategy,
        checkpoints=arguments.checkpoints,
        runs=None if arguments.no_tracking else arguments.runs,
        began_s=process_began_s(),
    )


def _preflight(arguments: argparse.Namespace, recipe: "Recipe") -> int:
    """Print the table as JSON, then fail where a check has failed."""
    from vilam3.errors import RecipeError
    from vilam3.train import launch
    from vilam3.train.preflight import refuse_unless_fit

    if arguments.out is None and arguments.checkpoints is None:
        raise RecipeError("vilam3 train --preflight: --out or --checkpoints is required, the place to be looked at")
    out = arguments.out or Path("out")
    checks = launch.preflight(recipe, stage=arguments.stage, out=out, how=_how(arguments))
    if _is_first():
        print(json.dumps([check.to_json() for check in checks], indent=2))
    refuse_unless_fit(checks)
    return 0


def _train(
    arguments: argparse.Namespace, recipe: "Recipe", how: "Launch", progress: "OnProgress", teller: "Teller | None"
) -> "StageResult":
    from vilam3.train import launch

    return launch.run(
        recipe,
        stage=arguments.stage,
        corpus=arguments.corpus,
        base=arguments.base,
        out=arguments.out,
        how=how,
        on_progress=progress,
        on_ledger=None if teller is None else teller.keeps_ledger_at,
    )
