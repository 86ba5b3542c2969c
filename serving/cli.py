"""`vilam3 serve`: everything in one process, or one role of the graph."""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vilam3.cli.main import Verbs
from vilam3.errors import UserError

if TYPE_CHECKING:
    from serving.roles import Place
    from serving.server import Part

EXAMPLE = """examples:
  vilam3 serve --model runs/latest/model --experts runs/latest/experts --port 8080
  vilam3 serve --role vlm --model runs/latest/model --port 8081
  vilam3 serve --role expert --expert VISTA3D --experts runs/latest/experts --studies file:///tmp/studies --port 8082
  vilam3 serve --role orchestrator --vlm http://127.0.0.1:8081 --expert-url VISTA3D=http://127.0.0.1:8082 \\
    --studies file:///tmp/studies

API keys, one a line, are read from the file that VILAM3_API_KEYS_FILE names; without keys the server listens on
loopback only. An orchestrator sends the key in VILAM3_API_KEY to the other services. The store of studies may be named
in VILAM3_STUDIES_URI; its S3 endpoint and keys come from the AWS variables."""
HIGHEST_PORT = 65535
# Which options each role takes, and which of them it needs.
TAKES: Mapping[str, Sequence[str]] = {
    "single": ("model", "experts", "work"),
    "vlm": ("model", "studies", "work"),
    "expert": ("expert", "experts", "studies", "work"),
    "orchestrator": (
        "vlm", "expert_url", "studies", "work", "deadline_s", "warmup_s", "expert_timeout_s", "per_tenant"
    ),
}  # fmt: skip
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
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="port to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=_port, metavar="PORT", help="KServe's V2 protocol over gRPC (none)")
    parser.add_argument("--without-keys", action="store_true", help="listen beyond loopback though there are no keys")
    parser.add_argument("--drain-s", type=_seconds, default=0.0, metavar="S", help="after SIGTERM, go on taking calls")
    _add_parts(parser)
    _add_bounds(parser)
    parser.set_defaults(run=run)


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
    group = parser.add_argument_group("bounds of --role orchestrator")
    group.add_argument("--deadline-s", type=_seconds, metavar="S", help="longest time for one answer (300)")
    group.add_argument(
        "--warmup-s", type=_seconds, metavar="S", help="how long a service that is not up is awaited (120)"
    )
    group.add_argument("--expert-timeout-s", type=_seconds, metavar="S", help="longest time for one expert (240)")
    group.add_argument("--per-tenant", type=int, metavar="N", help="answers at a time for one tenant (16)")


def run(arguments: argparse.Namespace) -> int:
    """Load, serve, and leave nothing of a patient behind."""
    from serving.address import check_free  # noqa: PLC0415 - keep --help instant
    from serving.tenants import from_environment  # noqa: PLC0415 - likewise
    from vilam3 import log  # noqa: PLC0415 - likewise

    _check(arguments)
    tenants = from_environment(host=arguments.host, without_keys=arguments.without_keys)
    check_free(arguments.host, arguments.port)
    _check_weights(arguments)
    log.setup()
    with _status("loading the server"):
        from serving.roles import Place  # noqa: PLC0415 - likewise
        from serving.server import Listening, serve  # noqa: PLC0415 - likewise
        from vilam3.shelf import STUDIES_VARIABLE  # noqa: PLC0415 - likewise
    listening = Listening(
        host=arguments.host, port=arguments.port, drain_s=arguments.drain_s, grpc_port=arguments.grpc_port
    )
    uri = arguments.studies or os.environ.get(STUDIES_VARIABLE, "")
    with _work(arguments.work) as work:
        place = Place(work=work, studies_uri=uri, tenants=tenants)
        with _status("loading the model"):
            part = _part(arguments, place)
        serve(part, listening, on_ready=lambda url: _say_ready(url, arguments.role))
    return 0


def _part(arguments: argparse.Namespace, place: "Place") -> "Part":
    from serving import roles  # noqa: PLC0415 - loaded by now

    match arguments.role:
        case "vlm":
            return roles.language_model(arguments.model, place=place)
        case "expert":
            return roles.one_expert(arguments.expert, experts=_experts(arguments, place), place=place)
        case "orchestrator":
            return _orchestrator(arguments, place)
        case _:
            experts = _experts(arguments, place) if arguments.experts else None
            return roles.single(arguments.model, experts=experts, place=place)


def _experts(arguments: argparse.Namespace, place: "Place") -> Path:
    from vilam3.weights import experts_at  # noqa: PLC0415 - loaded by now

    return experts_at(arguments.experts, place.work)


def _orchestrator(arguments: argparse.Namespace, place: "Place") -> "Part":
    from serving import roles  # noqa: PLC0415 - loaded by now
    from serving.orchestrator import Budget  # noqa: PLC0415 - likewise
    from vilam3.services.experts import Waits  # noqa: PLC0415 - likewise

    waits = {"warmup_s": arguments.warmup_s, "total_s": arguments.expert_timeout_s}
    budget = {"deadline_s": arguments.deadline_s, "per_tenant": arguments.per_tenant}
    others = roles.Others(
        vlm=arguments.vlm,
        experts=addresses(arguments.expert_url or ()),
        waits=Waits(**{name: value for name, value in waits.items() if value is not None}),
    )
    given = {name: value for name, value in budget.items() if value is not None}
    return roles.public(others, budget=Budget(**given), place=place)


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
    what = "model vilam3" if role == "single" else f"role {role}"
    print(f"ready: {url}/v1 ({what}); stop with Ctrl-C or SIGTERM", flush=True)  # noqa: T201 - what a command line does


@contextlib.contextmanager
def _work(folder: Path | None) -> Iterator[Path]:
    """A private directory that is gone when the server is: uploads hold patients' data."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="vilam3-serve-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"--work {folder}: {error.strerror}; choose a directory this user may write to") from error
    with made as name:
        yield Path(name)


@contextlib.contextmanager
def _status(what: str) -> Iterator[None]:
    """Say on a terminal what takes long."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - keep --help instant

    with Console(stderr=True).status(what):
        yield


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 1 to {HIGHEST_PORT}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; give seconds, such as 30")
    return seconds
