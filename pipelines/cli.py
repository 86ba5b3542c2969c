"""`vilam3 pipeline`: compile a pipeline, run it here or on a cluster, and the demo."""

# ruff: noqa: PLC0415, T201 - heavy imports stay inside the run functions, so that --help is instant; it prints

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vilam3.cli.main import Verbs
from vilam3.settings import STAGES, StageName

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent

    from pipelines.place import Place
    from vilam3.recipe import Recipe

PIPELINES = ("finetune", "retrain")
TINY = "pipelines/recipes/tiny.toml"
COMPILE_EXAMPLE = f"""\
Stages and resources are those of the recipe. A file of one pipeline, or a folder for both.

example: vilam3 pipeline compile --pipeline finetune --recipe {TINY} --out finetune.yaml
"""
RUN_EXAMPLE = f"""\
--local runs every step as a process of this machine; finished steps are re-used and a killed run goes on.
--endpoint submits to a Kubeflow Pipelines server and prints the run's id.

example: vilam3 pipeline run --local --recipe {TINY}
         vilam3 pipeline run --endpoint http://127.0.0.1:8888 --recipe {TINY}
"""
DEMO_EXAMPLE = """\
What `make demo` calls. Killed at any moment and started again, it goes on and comes to the same summary.
Exit code 2: the gate refused the model; the reasons are printed and in the report.

example: vilam3 pipeline demo
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "pipeline",
        help="compile or run a pipeline, or the whole demo",
        description="The training pipelines on Kubeflow Pipelines, or on this machine.",
        epilog=f"example: vilam3 pipeline run --local --recipe {TINY}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _register_compile(actions)
    _register_run(actions)
    _register_demo(actions)


def _register_compile(actions: Verbs) -> None:
    parser = _add(actions, "compile", "write a pipeline as KFP's YAML", COMPILE_EXAMPLE)
    parser.add_argument("--pipeline", choices=PIPELINES, help="default: both, and --out is a folder")
    _add_recipe(parser)
    _add_first(parser)
    parser.add_argument("--image", default="", metavar="REF", help="image of all steps, best by digest")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="YAML file, or folder without --pipeline"
    )
    parser.set_defaults(run=_compile)


def _register_run(actions: Verbs) -> None:
    parser = _add(actions, "run", "run a pipeline here or on a cluster", RUN_EXAMPLE)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", action="store_true", help="on this machine")
    where.add_argument("--endpoint", metavar="URL", help="on this Kubeflow Pipelines server")
    parser.add_argument("--pipeline", choices=PIPELINES, default="finetune", help="default: finetune")
    _add_recipe(parser)
    _add_first(parser)
    parser.add_argument("--image", default="", metavar="REF", help="with --endpoint: image of all steps")
    parser.add_argument("--base-checkpoint", metavar="URI", help="checkpoint to start from")
    parser.add_argument("--corpus", metavar="URI", help="a prepared corpus")
    parser.add_argument("--experts", metavar="URI", help="directory of expert bundles")
    parser.add_argument(
        "--work", type=Path, default=Path("runs"), metavar="DIR", help="with --local: of all runs (runs)"
    )
    parser.set_defaults(run=_run)


def _register_demo(actions: Verbs) -> None:
    parser = _add(actions, "demo", "run the whole loop here and ask about real images", DEMO_EXAMPLE)
    parser.add_argument(
        "--recipe", type=Path, action="append", metavar="FILE", help=f"TOML; repeat to override by later ({TINY})"
    )
    parser.add_argument("--work", type=Path, default=Path("runs"), metavar="DIR", help="of all runs (runs)")
    parser.set_defaults(run=_demo)


def _add(actions: Verbs, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", type=Path, action="append", required=True, metavar="FILE", help="TOML; repeat to override by later"
    )


def _add_first(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-stage", choices=STAGES, help="finetune: begin with this stage, from a published checkpoint"
    )


def _compile(arguments: argparse.Namespace) -> int:
    from pipelines.place import Place
    from pipelines.submit import write_yaml
    from vilam3.recipe import load

    recipe = load(arguments.recipe)
    place = Place(resources=recipe.resources, image=arguments.image)
    for name in [arguments.pipeline] if arguments.pipeline else PIPELINES:
        path = arguments.out if arguments.pipeline else arguments.out / f"{name}.yaml"
        write_yaml(_pipeline(name, recipe, place, arguments.from_stage), path)
        print(path)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from pipelines.place import Place
    from vilam3.recipe import load

    recipe = load(arguments.recipe)
    place = Place() if arguments.local else Place(resources=recipe.resources, image=arguments.image)
    pipeline = _pipeline(arguments.pipeline, recipe, place, arguments.from_stage)
    from pipelines.submit import check_arguments, submit

    given = check_arguments(
        pipeline,
        {"base_checkpoint": arguments.base_checkpoint, "corpus": arguments.corpus, "experts": arguments.experts},
    )
    if arguments.endpoint:
        print(submit(pipeline, given, endpoint=arguments.endpoint, experiment=recipe.tracking.experiment))
        return 0
    from pipelines.here import run_here

    done = run_here(pipeline, recipe, runs=arguments.work, arguments=given)
    print(json.dumps(done.summary | {"steps": dict(done.states), "folder": str(done.folder)}, indent=2))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from vilam3.recipe import load

    recipe = load(arguments.recipe or [Path(TINY)])
    with Console(stderr=True).status("starting") if sys.stderr.isatty() else contextlib.nullcontext():
        from pipelines.demo import demo
    return demo(recipe, runs=arguments.work)


def _pipeline(name: str, recipe: "Recipe", place: "Place", first: StageName | None) -> "BaseComponent":
    from pipelines.finetune import finetune
    from pipelines.retrain import STAGE, retrain
    from vilam3.errors import UserError

    if name == "finetune":
        return finetune(recipe, place=place, first=first)
    if first not in {None, STAGE}:
        raise UserError(f"--from-stage {first}: retrain is {STAGE} alone; leave it out, or choose --pipeline finetune")
    return retrain(recipe, place=place)
