"""`vilam3 pipeline`: compile a pipeline, publish it, run it here or on a cluster, and the demo."""

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
INPUTS = {
    "base_checkpoint": "checkpoint to start from",
    "corpus": "a prepared corpus",
    "experts": "directory of expert bundles",
}
DIGEST = {"corpus_digest": "which corpus is meant, as its corpus.json says; without it whichever is there"}
LAUNCH = {
    "launcher": "local: one process a stage; ray: several",
    "workers": "with ray: processes",
    "gpus": "accelerators of a pod that trains",
    "strategy": "with ray: ddp, zero1, zero2, zero3 or fsdp2",
    "checkpoints": "with ray: s3://bucket/prefix of their state",
}
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
PUBLISH_EXAMPLE = """\
A version is named by its content: the same file again changes nothing. With --schedule, one recurring run of the
retraining pipeline is kept; another schedule replaces it.

example: vilam3 pipeline publish --endpoint http://127.0.0.1:8888 --package finetune.yaml --package retrain.yaml
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
        help="compile, publish or run a pipeline, or the whole demo",
        description="The training pipelines on Kubeflow Pipelines, or on this machine.",
        epilog=f"example: vilam3 pipeline run --local --recipe {TINY}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _register_compile(actions)
    _register_publish(actions)
    _register_run(actions)
    _register_demo(actions)


def _register_compile(actions: Verbs) -> None:
    parser = _add(actions, "compile", "write a pipeline as KFP's YAML", COMPILE_EXAMPLE)
    parser.add_argument("--pipeline", choices=PIPELINES, help="default: both, and --out is a folder")
    _add_recipe(parser)
    _add_first(parser)
    parser.add_argument("--image", default="", metavar="REF", help="image of all steps, best by digest")
    parser.add_argument(
        "--launcher",
        choices=("here", "jobs"),
        default="here",
        help="train in the pods of the steps, or by a job of the cluster for each stage (%(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="YAML file, or folder without --pipeline"
    )
    parser.set_defaults(run=_compile)


def _register_publish(actions: Verbs) -> None:
    parser = _add(actions, "publish", "make compiled pipelines known to a server", PUBLISH_EXAMPLE)
    parser.add_argument("--endpoint", required=True, metavar="URL", help="of Kubeflow Pipelines")
    parser.add_argument("--package", type=Path, action="append", default=[], metavar="FILE", help="compiled; repeat it")
    parser.add_argument("--schedule", metavar="CRON", help="retrain at these times: six fields, seconds first")
    parser.add_argument(
        "--version", metavar="NAME", help="with --schedule: retrain with this one (the one of --package)"
    )
    parser.add_argument("--experiment", default="vilam3", metavar="NAME", help="of scheduled runs (vilam3)")
    for name, what in INPUTS.items():
        parser.add_argument(_flag(name), metavar="URI", help=f"with --schedule: {what}")
    parser.set_defaults(run=_publish)


def _register_run(actions: Verbs) -> None:
    parser = _add(actions, "run", "run a pipeline here or on a cluster", RUN_EXAMPLE)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", action="store_true", help="on this machine")
    where.add_argument("--endpoint", metavar="URL", help="on this Kubeflow Pipelines server")
    parser.add_argument("--pipeline", choices=PIPELINES, default="finetune", help="default: finetune")
    _add_recipe(parser)
    _add_first(parser)
    parser.add_argument("--image", default="", metavar="REF", help="with --endpoint: image of all steps")
    for name, what in INPUTS.items():
        parser.add_argument(_flag(name), metavar="URI", help=what)
    for name, what in (DIGEST | LAUNCH).items():
        parser.add_argument(_flag(name), metavar=name.upper(), help=what)
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
    place = Place(resources=recipe.resources, image=arguments.image, launcher=arguments.launcher)
    for name in [arguments.pipeline] if arguments.pipeline else PIPELINES:
        path = arguments.out if arguments.pipeline else arguments.out / f"{name}.yaml"
        write_yaml(_pipeline(name, recipe, place, arguments.from_stage), path)
        print(path)
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from pipelines.publish import Schedule, Server
    from pipelines.retrain import NAME as RETRAIN
    from vilam3.errors import UserError

    given = {name: getattr(arguments, name) for name in INPUTS}
    for name, value in given.items():
        if (value is None) == (arguments.schedule is not None):
            told = "is required with" if arguments.schedule else "has no effect without"
            raise UserError(
                f"{_flag(name)} {told} --schedule; {'give its URI' if arguments.schedule else 'leave it out'}"
            )
    server = Server(arguments.endpoint)
    published = dict(server.publish(package) for package in arguments.package)
    for name, version in published.items():
        print(name, version)
    if arguments.schedule:
        retraining = arguments.version or published.get(RETRAIN)
        if retraining is None:
            raise UserError(f"--schedule: of which version of {RETRAIN}? give --version, or its --package")
        wanted = Schedule(cron=arguments.schedule, arguments=given, version=retraining)
        print(server.schedule(wanted, experiment=arguments.experiment))
    return 0


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _run(arguments: argparse.Namespace) -> int:
    from pipelines.place import Place
    from vilam3.recipe import load

    recipe = load(arguments.recipe)
    place = Place() if arguments.local else Place(resources=recipe.resources, image=arguments.image)
    pipeline = _pipeline(arguments.pipeline, recipe, place, arguments.from_stage)
    from pipelines.submit import check_arguments, submit

    named = {name: getattr(arguments, name) for name in (*INPUTS, *DIGEST, *LAUNCH)}
    given = check_arguments(pipeline, named, texts={*DIGEST, *LAUNCH})
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
