"""How long our modules and functions are: ``python -m tests.contract.sizes`` prints it and fails beyond the limits.

A function's length is its lines from ``def`` to the end, without its docstring: explaining is not penalised.
"""

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("vilam3", "components", "pipelines", "serving", "infra", "bench", "tests")
MODULE_LINES = 500
FUNCTION_LINES = 50
VAGUE_NAMES = frozenset({"common", "commons", "helper", "helpers", "manager", "managers", "misc", "util", "utils"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """One function or module (`name` empty) and its number of lines."""

    path: Path
    line: int
    name: str
    lines: int

    def __str__(self) -> str:
        """Where it is and how long."""
        return f"{self.path.relative_to(ROOT)}:{self.line} {self.name} {self.lines} lines".replace("  ", " ")


def modules() -> list[Path]:
    """Every Python file of ours."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_lengths() -> list[Length]:
    """Every module and its length."""
    return [Length(path=path, line=1, name="", lines=len(_text(path).splitlines())) for path in modules()]


def function_lengths() -> list[Length]:
    """Every function and method and its length."""
    return [
        Length(path=path, line=function.lineno, name=function.name, lines=_lines(function))
        for path in modules()
        for function in functions(ast.parse(_text(path)))
    ]


def functions(tree: ast.AST) -> Iterator[Function]:
    """Functions and methods of a module at any depth."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def too_long() -> list[Length]:
    """What is beyond the limits."""
    return [length for length in module_lengths() if length.lines > MODULE_LINES] + [
        length for length in function_lengths() if length.lines > FUNCTION_LINES
    ]


def summary() -> str:
    """One line about modules and one about functions."""
    by_length = sorted(function_lengths(), key=lambda length: length.lines)
    counts = [length.lines for length in by_length]
    sizes = sorted(module_lengths(), key=lambda length: length.lines)
    ninth = statistics.quantiles(counts, n=10)[-1]
    median = statistics.median(size.lines for size in sizes)
    return (
        f"{len(sizes)} modules: median {median:.0f} lines, longest {sizes[-1]}\n"
        f"{len(counts)} functions: median {statistics.median(counts):.0f} lines, nine in ten at most {ninth:.0f}, "
        f"longest {by_length[-1]}"
    )


def main() -> int:
    """Print the summary and what is too long; 1 when something is."""
    print(summary())  # noqa: T201 - a program
    for length in too_long():
        print(f"too long: {length}; at most {MODULE_LINES} a module, {FUNCTION_LINES} a function", file=sys.stderr)  # noqa: T201 - a program
    return 1 if too_long() else 0


def _lines(function: Function) -> int:
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    documented = 0 if docstring is None else (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return (function.end_lineno or function.lineno) - function.lineno + 1 - documented


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
