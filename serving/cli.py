"""`vilam3 serve`: everything in one process, or one role of the graph."""

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serving import engine_options
from vilam3.cli.main import Verbs
from vilam3.errors import UserError
from vilam3.scratch import scratch

if TYPE_CHECKING:
    from serving.answer import Terms
    from serving.roles import Place
    from serving.server import Part

EXAMPLE = """examples:
  vilam3 serve --model runs/latest/model --experts runs/latest/experts --port 8080
  vilam3 serve --mode kserve --models runs/latest
  vilam3 serve --role vlm --model runs/latest/model --port 8081
  vilam3 serve --role expert --expert VISTA3D --experts runs/latest/experts --studies file:///tmp/studies --port 8082
  vilam3 serve --role orchestrator --vlm http://127.0.0.1:8081 --expert-url VISTA3D=http://127.0.0.1:8082 \\
    --studies file:///tmp/studies

API keys, one a line, are read from the file that VILAM3_API_KEYS_FILE names; without keys the server listens on
loopback only. An orchestrator sends the key in VILAM3_API_KEY to the other services. The store of studies may be named
in VILAM3_STUDIES_URI; its S3 endpoint and keys come from the AWS variables. Images elsewhere are fetched from what
VILAM3_IMAGE_HOSTS, VILAM3_IMAGE_BUCKETS and VILAM3_PACS_URL list, and from nowhere else (docs/imaging.md)."""
HIGHEST_PORT = 65535
BUDGET = ("deadline_s", "expert_seconds", "experts_at_a_time", "per_tenant", "no_cache")
# Which options each role takes, and which of them it needs.
TAKES: Mapping[str, Sequence[str]] = {
    "single": ("model", "experts", "work", *BUDGET, *engine_options.NAMES),
    "vlm": ("model", "expert_url", "studies", "work", *engine_options.NAMES),
    "expert": ("expert", "experts", "studies", "work"),
    "orchestrator": (
        "vlm", "expert_url", "studies", "work", "warmup_s", "expert_timeout_s", *BUDGET
    ),
}  # fmt: skip
MODES = ("kserve", "ray", "single")
# What a role takes and a mode decides for itself.
GIVEN = sorted({name for names in TAKES.values() for name in names} - {"work"})
NEEDS: Mapping[str, Sequence[str]] = {
    "single": ("model",),
    "vlm": ("model",),
    "expert": ("expert", "experts"),
    "orchestrator": ("vlm",),
}


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "serve",
        help="serve a model and its experts: OpenAI-compatible, on the KServe model server",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--role", choices=tuple(TAKES), default="single", help="part of the graph (default: all in one)"
    )
    parser.add_argument(
        "--mode", choices=MODES, help="all of it here as a cluster runs it: the parts as processes, Ray Serve, or one"
    )
    parser.add_argument("--models", type=Path, metavar="DIR", help="of --mode: holds model/ and experts/")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="port to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=_port, metavar="PORT", help="KServe's V2 protocol over gRPC (none)")
    parser.add_argument("--without-keys", action="store_true", help="listen beyond loopback though there are no keys")
    parser.add_argument("--drain-s", type=_seconds, default=0.0, metavar="S", help="after SIGTERM, go on taking calls")
    _add_parts(parser)
    _add_bounds(parser)
    engine_options.add(parser)
    parser.set_defaults(run=run, parser=parser)


def _add_parts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it is made of")
    group.add_argument("--model", metavar="DIR", help="checkpoint directory or models:/name@alias")
    group.add_argument("--experts", metavar="DIR", help="directory of the expert bundles, or s3:// or models:/ of it")
    group.add_argument("--expert", metavar="NAME", help="the one expert of --role expert, such as VISTA3D")
    group.add_argument("--vlm", metavar="URL", help="the language model's service")
    group.add_argument("--expert-url", action="append", metavar="NAME=URL", help="an expert's service; repeat it")
    group.add_argument("--studies", metavar="URI", help="store shared by all roles: file:///dir or s3://bucket/prefix")
    group.add_argument("--work", type=Path, metavar="DIR", help="where uploads and results live while it runs")


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("bounds of --role single and orchestrator")
    group.add_argument("--deadline-s", type=_seconds, metavar="S", help="longest time for one answer (300)")
    group.add_argument("--expert-seconds", type=_seconds, metavar="S", help="all experts of one answer together (600)")
    group.add_argument("--experts-at-a-time", type=_count, metavar="N", help="experts of one reply side by side (4)")
    group.add_argument("--per-tenant", type=_count, metavar="N", help="answers at a time for one tenant (16)")
    group.add_argument(
        "--no-cache", action="store_true", default=None, help="ask experts again what they have found before"
    )
    group = parser.add_argument_group("bounds of --role orchestrator")
    group.add_argument(
        "--warmup-s", type=_seconds, metavar="S", help="how long a service that is not up is awaited (120)"
    )
    group.add_argument("--expert-timeout-s", type=_seconds, metavar="S", help="longest time for one expert (240)")


def run(arguments: argparse.Namespace) -> int:
    """Load, serve, and leave nothing of a patient behind."""
    from serving.address import check_free  # noqa: PLC0415 - keep --help instant
    from serving.tenants import from_environment  # noqa: PLC0415 - likewise
    from vilam3 import log, tracing  # noqa: PLC0415 - likewise
    from vilam3.progress import waiting  # noqa: PLC0415 - likewise

    if arguments.mode or arguments.models:
        return _run_mode(arguments)
    _check(arguments)
    tenants = from_environment(host=arguments.host, without_keys=arguments.without_keys)
    check_free(arguments.host, arguments.port)
    _check_weights(arguments)
    log.setup()
    tracing.setup(arguments.role)
    with waiting("loading the server"):
        from serving.roles import Place  # noqa: PLC0415 - likewise
        from serving.server import Listening, serve  # noqa: PLC0415 - likewise
        from vilam3.shelf import STUDIES_VARIABLE  # noqa: PLC0415 - likewise
    listening = Listening(
        host=arguments.host, port=arguments.port, drain_s=arguments.drain_s, grpc_port=arguments.grpc_port
    )
    uri = arguments.studies or os.environ.get(STUDIES_VARIABLE, "")
    with _work(arguments.work) as work:
        place = Place(work=work, studies_uri=uri, tenants=tenants)
        with waiting("loading the model"):
            part = _part(arguments, place)
        serve(part, listening, on_ready=lambda url: _say_ready(url, arguments.role))
    return 0


def _run_mode(arguments: argparse.Namespace) -> int:
    """Serve everything here in one of the forms of a cluster."""
    from serving import modes  # noqa: PLC0415 - keep --help instant
    from serving.tenants import from_environment  # noqa: PLC0415 - likewise

    if not arguments.mode or not arguments.models:
        raise UserError("--mode and --models: each needs the other, such as --mode kserve --models runs/latest")
    if given := [name for name in GIVEN if getattr(arguments, name) is not None]:
        raise UserError(f"--mode {arguments.mode}: has no use for {_option(given[0])}; leave it out, or give a --role")
    from_environment(host=arguments.host, without_keys=arguments.without_keys)
    models = modes.Models.below(arguments.models)
    with _work(arguments.work) as work:
        front = modes.Front(host=arguments.host, port=arguments.port, without_keys=arguments.without_keys, work=work)
        if arguments.mode == "single":
            words = [*modes.single(models, front), "--drain-s", str(arguments.drain_s), "--work", str(work)]
            return run(arguments.parser.parse_args(words))
        serve = {"kserve": modes.kserve, "ray": modes.ray}[arguments.mode]
        serve(models, front, on_ready=lambda url: _say_ready(url, arguments.mode))
    return 0


def _part(arguments: argparse.Namespace, place: "Place") -> "Part":
    from serving import roles  # noqa: PLC0415 - loaded by now

    match arguments.role:
        case "vlm":
            return roles.language_model(
                arguments.model,
                place=place,
                engine=engine_options.choice(arguments),
                experts=addresses(arguments.expert_url or ()),
            )
        case "expert":
            return roles.one_expert(arguments.expert, experts=_experts(arguments, place), place=place)
        case "orchestrator":
            return _orchestrator(arguments, place)
        case _:
            return roles.single(
                arguments.model,
                experts=_experts(arguments, place) if arguments.experts else None,
                place=place,
                terms=_terms(arguments),
                engine=engine_options.choice(arguments),
            )


def _experts(arguments: argparse.Namespace, place: "Place") -> Path:
    from vilam3.weights import experts_at  # noqa: PLC0415 - loaded by now

    return experts_at(arguments.experts, place.work)


def _orchestrator(arguments: argparse.Namespace, place: "Place") -> "Part":
    from serving import roles  # noqa: PLC0415 - loaded by now
    from vilam3.services.visit import Waits  # noqa: PLC0415 - likewise

    waits = {"warmup_s": arguments.warmup_s, "total_s": arguments.expert_timeout_s}
    others = roles.Others(
        vlm=arguments.vlm,
        experts=addresses(arguments.expert_url or ()),
        waits=Waits(**{name: value for name, value in waits.items() if value is not None}),
    )
    return roles.public(others, terms=_terms(arguments), place=place)


def _terms(arguments: argparse.Namespace) -> "Terms":
    """On which terms answers are given."""
    from serving.answer import Budget, Terms  # noqa: PLC0415 - loaded by now

    given = {
        "deadline_s": arguments.deadline_s,
        "expert_seconds": arguments.expert_seconds,
        "side_by_side": arguments.experts_at_a_time,
        "per_tenant": arguments.per_tenant,
    }
    budget = Budget(**{name: value for name, value in given.items() if value is not None})
    return Terms(budget=budget, remembers=not arguments.no_cache)


def addresses(given: Sequence[str]) -> dict[str, str]:
    """The addresses of ``NAME=URL`` options, by name.

    Raises:
        UserError: one is not of this form.
    """
    found: dict[str, str] = {}
    for option in given:
        name, equals, url = option.partition("=")
        if not equals or not name or not url or name in found:
            raise UserError(f"--expert-url {option}: write NAME=URL, each name once, such as CXR=http://127.0.0.1:8083")
        found[name] = url
    return found


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that the role has no use for: they would be a misunderstanding."""
    role = arguments.role
    given = {name for names in TAKES.values() for name in names if getattr(arguments, name) is not None}
    if lacking := [name for name in NEEDS[role] if name not in given]:
        raise UserError(f"--role {role}: needs {_option(lacking[0])}; see vilam3 serve --help")
    if foreign := sorted(given - set(TAKES[role])):
        raise UserError(f"--role {role}: has no use for {_option(foreign[0])}; leave it out or choose another role")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_weights(arguments: argparse.Namespace) -> None:
    """Say that a checkpoint is missing before libraries are loaded."""
    if arguments.model:
        from vilam3.consultant import resolve  # noqa: PLC0415 - keep --help instant

        arguments.model = str(resolve(arguments.model))


def _say_ready(url: str, role: str) -> None:
    what = {"single": "model vilam3", "kserve": "in parts", "ray": "on Ray Serve"}.get(role, f"role {role}")
    where = f"{url} (KServe's router)" if url.endswith("/") else f"{url}/v1 ({what})"
    print(f"ready: {where}; stop with Ctrl-C or SIGTERM", flush=True)  # noqa: T201 - what a command line does


@contextlib.contextmanager
def _work(folder: Path | None) -> Iterator[Path]:
    """A private directory that is gone when the server is: uploads hold patients' data."""
    with contextlib.ExitStack() as made:
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            work = made.enter_context(scratch("vilam3-serve-", folder=folder))
        except OSError as error:
            raise UserError(f"--work {folder}: {error.strerror}; choose a directory this user may write to") from error
        yield work


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 1 to {HIGHEST_PORT}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of things; give 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; give seconds, such as 30")
    return seconds
