"""`vilam3 launch`: train a stage by a job of a cluster, from a pipeline's step or by hand."""

# ruff: noqa: PLC0415 - heavy imports stay inside the run function, so that --help is instant

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vilam3.cli.main import Verbs

if TYPE_CHECKING:
    from vilam3.launch.job import Request
    from vilam3.launch.run import Account

EXAMPLE = """\
The job is named for run, stage and recipe: the same command again finds it and goes on watching, and never starts
another. SIGTERM ends the job, since that is how a run of a pipeline is stopped; Ctrl-C leaves it alone, and a job that
nobody watches for long (training.unwatchedSeconds of the chart) saves its state and ends by itself. What the pods
of the job need to know of the installation is in the template, which the chart makes:
  kubectl -n kubeflow get configmap vilam3-job -o jsonpath='{.data.job\\.json}' > job.json

Exit code 0: trained | 2: mend what it says | 75: lost to machines or asked to end, run it again | 1: anything else

example: vilam3 launch --recipe pipelines/recipes/tiny.toml --stage stage1_align --corpus s3://data/corpus \\
  --checkpoints s3://data/checkpoints --run-id try-1 --template job.json --namespace kubeflow
"""
TEMPLATE = Path("/etc/vilam3/job.json")
EVERY_S = 10.0


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "launch",
        help="train a stage by a job of a cluster",
        description="Make the job that trains a stage, or find it again, and watch it to its end.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--recipe", type=Path, action="append", metavar="FILE", help="TOML; repeat to override by later")
    given.add_argument("--resolved-recipe", metavar="JSON", help="instead: the text that vilam3 train --dry-run prints")
    parser.add_argument("--stage", required=True, metavar="NAME", help="such as stage4_expert")
    parser.add_argument("--corpus", required=True, metavar="URI", help="a prepared corpus, s3://")
    parser.add_argument(
        "--base", default="", metavar="URI", help="checkpoint to start from, s3://; stage 1 may do without"
    )
    parser.add_argument("--checkpoints", required=True, metavar="URI", help="s3://bucket/prefix of state and result")
    parser.add_argument("--workers", type=int, metavar="N", help="processes, one an accelerator (the stage's devices)")
    parser.add_argument(
        "--strategy",
        choices=("ddp", "zero1", "zero2", "zero3", "fsdp2"),
        default="",
        help="how processes divide the model (the stage's zero_stage, ddp for 0)",
    )
    parser.add_argument("--run-id", default="", metavar="NAME", help="what the job belongs to (the run of this pod)")
    parser.add_argument("--template", type=Path, default=TEMPLATE, metavar="FILE", help="of the chart (%(default)s)")
    parser.add_argument("--namespace", default="", metavar="NAME", help="of the job (that of this pod)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="of the tracking store (runs)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write how it went as a page (HTML)")
    parser.add_argument("--every-s", type=float, default=EVERY_S, metavar="S", help="between two looks (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the manifest and stop")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Launch, and print what came of it as JSON."""
    from vilam3.launch.job import Template, render
    from vilam3.launch.run import launch
    from vilam3.launch.step import here, say

    template = Template.read(arguments.template)
    if arguments.dry_run:
        request = _request(arguments, run_id=arguments.run_id or "dry-run")
        print(json.dumps(render(request, template=template), indent=2))
        return 0
    place = here(arguments.namespace)
    owner = place.owner()
    request = _request(arguments, run_id=arguments.run_id or (owner or {}).get("uid", ""))

    def on_end(account: "Account") -> None:
        from vilam3.launch.record import publish

        publish(request, account, runs=arguments.runs, page_file=arguments.page, say=say)

    found = launch(request, template=template, place=place, say=say, on_end=on_end, every_s=arguments.every_s)
    shown = {key: value for key, value in found.result.to_json().items() if key != "losses"}
    print(json.dumps({**shown, "out": found.model, "kept": found.kept, "job": found.account.job}, indent=2))
    return 0


def _request(arguments: argparse.Namespace, *, run_id: str) -> "Request":
    from vilam3.launch.job import Request
    from vilam3.recipe import load, parse_resolved

    return Request(
        recipe=load(arguments.recipe) if arguments.recipe else parse_resolved(arguments.resolved_recipe),
        stage=arguments.stage,
        corpus=arguments.corpus,
        base=arguments.base,
        checkpoints=arguments.checkpoints,
        workers=arguments.workers,
        strategy=arguments.strategy,
        run_id=run_id,
    )
