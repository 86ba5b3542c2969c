"""`vilam3 serve`."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vilam3.cli.main import Verbs
from vilam3.errors import UserError

EXAMPLE = """example:
  vilam3 serve --model runs/latest/model --experts runs/latest/experts --port 8080
  curl http://127.0.0.1:8080/v1/models

API keys, one a line, are read from the file that VILAM3_API_KEYS_FILE names; without keys the server listens on
loopback only."""
HIGHEST_PORT = 65535


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "serve",
        help="serve a model and its experts: OpenAI-compatible, on the KServe model server",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint directory or models:/name@alias")
    parser.add_argument(
        "--experts", type=Path, metavar="DIR", help="directory of the expert bundles; none: model alone"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="port to listen on (default: %(default)s)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where uploads and results live while it runs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load, serve, and leave nothing of a patient behind."""
    from serving.address import check_free  # noqa: PLC0415 - keep --help instant
    from serving.tenants import from_environment  # noqa: PLC0415 - likewise
    from vilam3 import log  # noqa: PLC0415 - likewise
    from vilam3.consultant import load, resolve  # noqa: PLC0415 - likewise

    tenants = from_environment(host=arguments.host)
    check_free(arguments.host, arguments.port)
    model = resolve(arguments.model)
    log.setup()
    with _status("loading the server"):
        from serving.answer import Service  # noqa: PLC0415 - likewise
        from serving.server import serve  # noqa: PLC0415 - likewise
    with _status("loading the model"):
        consultant = load(str(model), experts=arguments.experts)
    with _work(arguments.work) as work:
        service = Service.create(consultant, tenants=tenants, work=work)
        serve(service, host=arguments.host, port=arguments.port, on_ready=_say_ready)
    return 0


def _say_ready(url: str) -> None:
    print(f"ready: {url}/v1 (model vilam3); stop with Ctrl-C or SIGTERM", flush=True)  # noqa: T201 - what a command line does


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
