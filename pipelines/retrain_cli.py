"""`vilam3 retrain`: ask for a retraining, look for new data, or serve the intake; the same event starts one run."""

# ruff: noqa: PLC0415, T201 - heavy imports stay inside the run functions, so that --help is instant; it prints

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli import TINY
from vilam3.cli.main import Verbs
from vilam3.cli.plan import ACCELERATORS

if TYPE_CHECKING:
    from vilam3.intake.event import Answer, Starts
    from vilam3.intake.triggers import Triggers

RECORDS_VARIABLE, SECRET_VARIABLE = "VILAM3_INTAKE", "VILAM3_MLFLOW_WEBHOOK_SECRET"
REFUSED = 2
HERE = "--records file:///var/lib/vilam3/intake --local"
REQUEST_EXAMPLE = f"""\
An event is named by the content of corpus, recipe and base checkpoint: asked any number of times, from anywhere, it is
one run. It waits where the installation's rules say so, and `vilam3 retrain look` goes on with it.

example: vilam3 retrain request {HERE} --recipe {TINY} \\
           --corpus runs/corpus --base-checkpoint runs/stage3 --experts runs/experts --dry-run
"""
LOOK_EXAMPLE = f"""\
For a schedule: asks for a run of what is there now, and goes on with every event that waits.

example: vilam3 retrain look --records s3://data/intake --endpoint http://ml-pipeline.kubeflow:8888 --recipe {TINY} \\
           --watch s3://data/corpora --base-checkpoint models:/vilam3@base --experts s3://data/experts
"""
SERVE_EXAMPLE = f"""\
API keys, one a line, are read from the file that VILAM3_API_KEYS_FILE names; without keys it listens on loopback only.
{SECRET_VARIABLE} is the secret of MLflow's webhook.

example: vilam3 retrain serve {HERE} --recipe {TINY} --watch file:///data/corpora --port 8090
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "retrain",
        help="ask for a retraining: by hand, on a schedule, or by HTTP",
        description="One way in for all that asks for a retraining; the same content starts one run.",
        epilog="example: vilam3 retrain request --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    request = _add(actions, "request", "ask for a run", REQUEST_EXAMPLE)
    request.add_argument("--again", action="store_true", help="start another where the last of this content has failed")
    request.add_argument("--dry-run", action="store_true", help="estimate only")
    request.set_defaults(run=_request)
    _add(actions, "look", "ask for what is there now, and go on with what waits", LOOK_EXAMPLE).set_defaults(run=_look)
    serve = _add(actions, "serve", "take events by HTTP", SERVE_EXAMPLE)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=8080, help="port to listen on (%(default)s)")
    serve.add_argument("--without-keys", action="store_true", help="listen beyond loopback though there are no keys")
    serve.set_defaults(run=_serve)


def _add(actions: Verbs, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_where(parser)
    _add_what(parser)
    _add_terms(parser)
    return parser


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where")
    group.add_argument(
        "--records",
        default="",
        metavar="URI",
        help=f"store of the intake alone: file:///folder or s3://bucket/prefix (${RECORDS_VARIABLE})",
    )
    where = group.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--local", action="store_true", help="run on this machine, as processes that go on by themselves"
    )
    where.add_argument("--endpoint", metavar="URL", help="run on this Kubeflow Pipelines server")
    group.add_argument(
        "--work", type=Path, default=Path("runs"), metavar="DIR", help="with --local: of all runs (runs)"
    )
    group.add_argument("--page", default="", metavar="URL", help="with --endpoint: the server's page, for links")
    group.add_argument("--version", default="", metavar="NAME", help="with --endpoint: of the pipeline (the newest)")


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what")
    group.add_argument(
        "--recipe", type=Path, action="append", required=True, metavar="FILE", help="TOML; repeat to override by later"
    )
    group.add_argument("--corpus", default="", metavar="URI", help="a prepared corpus")
    group.add_argument(
        "--watch", default="", metavar="URI", help="instead: place of corpora, the newest of which counts"
    )
    group.add_argument(
        "--base-checkpoint", default="", metavar="URI", help="checkpoint to start from, or models:/name@alias"
    )
    group.add_argument("--experts", default="", metavar="URI", help="directory of expert bundles")


def _add_terms(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("terms")
    group.add_argument("--cool-down-s", type=float, default=0.0, metavar="S", help="from one start to the next (0)")
    group.add_argument("--most-at-once", type=int, default=0, metavar="N", help="runs of the intake (0: no bound)")
    group.add_argument("--accelerator", choices=ACCELERATORS, default="h100", help="for estimates (%(default)s)")
    group.add_argument("--price", type=float, metavar="X", help="of one accelerator for an hour")


def _request(arguments: argparse.Namespace) -> int:
    triggers = _triggers(arguments)
    event = triggers.standing.event("person")
    answer = triggers.intake.submit(event, again=arguments.again, dry_run=arguments.dry_run)
    _tell(answer)
    return REFUSED if answer.decision == "refused" else 0


def _look(arguments: argparse.Namespace) -> int:
    from vilam3 import log

    log.setup()
    for answer in _triggers(arguments).look():
        _tell(answer)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    import uvicorn

    from pipelines.intake_app import Service, application
    from serving.address import check_free
    from serving.tenants import from_environment
    from vilam3 import log, tracing

    tenants = from_environment(host=arguments.host, without_keys=arguments.without_keys)
    check_free(arguments.host, arguments.port)
    log.setup()
    tracing.setup("intake")
    secret = os.environ.get(SECRET_VARIABLE, "")
    app = application(Service(triggers=_triggers(arguments), tenants=tenants, mlflow_secret=secret))
    print(f"intake: http://{arguments.host}:{arguments.port}/v1/retraining; stop with Ctrl-C or SIGTERM", flush=True)
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_config=None, access_log=False)
    return 0


def _triggers(arguments: argparse.Namespace) -> "Triggers":
    from pipelines.retrain import NAME, STAGE
    from vilam3.errors import UserError
    from vilam3.intake.intake import Intake, Terms
    from vilam3.intake.rules import Rules
    from vilam3.intake.triggers import Standing, Triggers
    from vilam3.objects import open_store
    from vilam3.recipe import load
    from vilam3.train.plan import ACCELERATORS as KINDS
    from vilam3.train.plan import Assumptions

    records = arguments.records or os.environ.get(RECORDS_VARIABLE, "")
    if not records:
        raise UserError(f"--records: where does the intake keep its records? give it, or set {RECORDS_VARIABLE}")
    recipe = load(arguments.recipe)
    recipe.stage(STAGE)
    terms = Terms(
        rules=Rules(cool_down_s=arguments.cool_down_s, most_at_once=arguments.most_at_once),
        assumptions=Assumptions(accelerator=KINDS[arguments.accelerator], price_per_hour=arguments.price),
    )
    given = {name: getattr(arguments, name) for name in ("corpus", "watch", "base_checkpoint", "experts")}
    standing = Standing(pipeline=NAME, stages=(STAGE,), recipe=recipe.resolved_json(), **given)
    starts = _starts(arguments, experiment=recipe.tracking.experiment)
    return Triggers(intake=Intake(open_store(records), starts, terms=terms), standing=standing)


def _starts(arguments: argparse.Namespace, *, experiment: str) -> "Starts":
    from pipelines.starts import HereStarts, KfpStarts

    if arguments.local:
        return HereStarts(arguments.work)
    return KfpStarts(arguments.endpoint, experiment=experiment, page=arguments.page, version=arguments.version)


def _tell(answer: "Answer") -> None:
    print(answer.model_dump_json(indent=2))
