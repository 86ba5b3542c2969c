"""`vilam3 replay`: ask for a kept answer again, of the same or another model, and show the difference."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilam3.cli.main import Verbs
from vilam3.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.replay import Kept
    from vilam3.dialogue.difference import Row

EXAMPLE = """examples:
  vilam3 replay chatcmpl-0123456789abcdef0123456789abcdef --server http://127.0.0.1:8080
  vilam3 replay chatcmpl-0123456789abcdef0123456789abcdef --model runs/latest/model --experts runs/latest/experts

The server keeps answers for a while, unless they were asked for with "store": false. Without --model it is asked again;
with --model the question and its study are fetched, and the model here is asked.

exit codes: 0 the same answer, 3 another answer, 2 your input, 1 our fault"""
DIFFERS = 3
SERVER = "http://127.0.0.1:8080"


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "replay",
        help="ask for a kept answer again and show the difference",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("answer", help="id of the answer, such as chatcmpl-...")
    parser.add_argument("--server", metavar="URL", default=SERVER, help="where it is kept (default: %(default)s)")
    parser.add_argument("--model", metavar="DIR", help="checkpoint directory or models:/name@alias to ask instead")
    parser.add_argument("--experts", type=Path, metavar="DIR", help="expert bundles beside --model")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write both answers and the comparison as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask again, print the table; `DIFFERS` when the answer is another."""
    from serving.replay import Kept  # noqa: PLC0415 - keep --help instant
    from vilam3.dialogue.difference import are_same, compare  # noqa: PLC0415 - likewise
    from vilam3.remote import Server  # noqa: PLC0415 - likewise

    if arguments.experts and not arguments.model:
        raise UserError("--experts: needs --model; the server has its own experts")
    with Server(arguments.server) as server:
        kept = Kept.of(server, arguments.answer)
        now = _ask(arguments, server, kept)
    rows = compare(kept.answer, now)
    same = are_same(rows)
    _show(rows)
    if arguments.out:
        from vilam3.artifacts import write_json  # noqa: PLC0415 - likewise

        told = [{"what": row.what, "then": row.then, "now": row.now, "same": row.is_same} for row in rows]
        write_json(arguments.out, {"same": same, "rows": told, "then": kept.answer, "now": now})
    print("replay: the same answer" if same else "replay: another answer")  # noqa: T201 - what a command line does
    if not same and not kept.is_repeatable:
        print("replay: it was sampled without a seed, so even the same model need not repeat it")  # noqa: T201 - likewise
    return 0 if same else DIFFERS


def _ask(arguments: argparse.Namespace, server: Any, kept: "Kept") -> dict[str, Any]:  # noqa: ANN401 - imported late
    from serving.replay import here, on_server  # noqa: PLC0415 - keep --help instant

    if not arguments.model:
        return on_server(server, kept)
    from vilam3.consultant import load  # noqa: PLC0415 - likewise
    from vilam3.progress import waiting  # noqa: PLC0415 - likewise

    with waiting("loading the model"):
        consultant = load(arguments.model, experts=arguments.experts)
    return here(server, kept, consultant)


def _show(rows: "Sequence[Row]") -> None:
    """One row a property; long digests are cut by the table itself."""
    from rich.console import Console  # noqa: PLC0415 - keep --help instant
    from rich.table import Table  # noqa: PLC0415 - likewise

    table = Table("", "kept", "asked again", "")
    for row in rows:
        sign = "" if row.is_same else "differs" if row.counts else "other"
        table.add_row(row.what, row.then, "the same" if row.is_same else row.now, sign)
    Console().print(table)
