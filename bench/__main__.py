"""Run the measurements, all or the named ones, and print the figures: ``python -m bench [AREA ...]``."""

import importlib
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.record import RESULTS
from vilam3.errors import VilaM3Error

FRAME = frozenset({"__init__", "__main__", "record"})


def areas() -> list[str]:
    """Every module beside this one that measures something; a name with an underscore is a part of an area."""
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(stem for stem in stems if stem not in FRAME and "_" not in stem)


def main(names: list[str]) -> int:
    """Measure `names`, all areas when empty; 1 when one of them failed, after the others have run."""
    if unknown := sorted(set(names) - set(areas())):
        print(f"bench: no area {', '.join(unknown)}; there are {', '.join(areas())}", file=sys.stderr)
        return 2
    failed = False
    for name in names or areas():
        print(f"measuring {name} ...", file=sys.stderr)
        try:
            record = importlib.import_module(f"bench.{name}").run()
        except VilaM3Error as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            failed = True
            continue
        _show(record)
    print(f"kept in {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}/")
    return 1 if failed else 0


def _show(record: dict[str, Any]) -> None:
    table = Table(title=f"{record['area']} at {record['commit']}: {record['command']}", title_justify="left")
    table.add_column("figure")
    for column in ("value", "unit", "baseline", "ratio"):
        table.add_column(column, justify="right")
    for figure in record["figures"]:
        table.add_row(figure["name"], *(_cell(figure[key]) for key in ("value", "unit", "baseline", "ratio")))
    Console().print(table)


def _cell(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
