"""`vilam3 train --plan`: what the stages of a recipe will take, as a table or as JSON."""

# ruff: noqa: PLC0415 - heavy imports stay inside the run function, so that --help is instant

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from vilam3.progress import format_seconds

if TYPE_CHECKING:
    from vilam3.recipe import Recipe
    from vilam3.train.plan import Assumptions, StagePlan

ACCELERATORS = ("a100-80gb", "h100", "h200")
UNKNOWN = "?"
SHOWN_NAMES = 3
WORK = (
    "devices",
    "steps",
    "samples",
    "tokens a sample",
    "images a sample",
    "tokens",
    "GPU-hours",
    "hours",
    "kWh at most",
    "cost",
)
MEMORY = ("learn", *(f"ZeRO-{zero}" for zero in (0, 1, 2, 3)), "activations", "weights", "to resume")
UNITS = ("B", "kB", "MB", "GB", "TB")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a plan asks for to `vilam3 train`."""
    group = parser.add_argument_group("planning", "print steps, tokens, memory, hours and cost, and start nothing")
    group.add_argument("--plan", action="store_true", help="plan the stage, or all stages without --stage")
    group.add_argument("--json", action="store_true", help="the plan as JSON")
    group.add_argument("--accelerator", choices=ACCELERATORS, default="h100", help="kind of device (%(default)s)")
    group.add_argument(
        "--utilisation", type=float, default=0.35, metavar="SHARE", help="of its peak that is reached (%(default)s)"
    )
    group.add_argument(
        "--tokens-per-sample",
        type=float,
        metavar="N",
        help="mean, image positions included (what the recipe says, else 350)",
    )
    group.add_argument("--images-per-sample", type=float, metavar="N", help="mean (what the recipe says, else 1)")
    group.add_argument("--price", type=float, metavar="X", help="of one device for an hour")


def run(recipe: "Recipe", arguments: argparse.Namespace) -> int:
    """Plan and print."""
    from vilam3.train.plan import ACCELERATORS as KINDS
    from vilam3.train.plan import Assumptions, plan

    assumptions = Assumptions(
        accelerator=KINDS[arguments.accelerator],
        utilisation=arguments.utilisation,
        tokens_per_sample=arguments.tokens_per_sample,
        images_per_sample=arguments.images_per_sample,
        price_per_hour=arguments.price,
    )
    if arguments.stage is not None:
        recipe.stage(arguments.stage)
    known = None if arguments.corpus is None else _counts(recipe, arguments)
    plans = [one for one in plan(recipe, assumptions, sizes_known=known) if arguments.stage in (None, one.name)]
    if arguments.json:
        print(json.dumps({"assumptions": asdict(assumptions), "stages": [asdict(one) for one in plans]}, indent=2))
    else:
        _print(recipe, plans, assumptions)
    return 0


def _counts(recipe: "Recipe", arguments: argparse.Namespace) -> dict[str, int]:
    """Samples by data set of the corpus, of the data sets that the recipe names."""
    from vilam3.data.llava import stream_samples
    from vilam3.data.shards import read_index
    from vilam3.train.sources import brought_corpus

    corpus = brought_corpus(arguments.corpus)
    stages = [recipe.stage(name) for name in recipe.stage_names]
    names = sorted({name for stage in stages for name, weight in stage.mixture.items() if weight})
    if (index := read_index(corpus)) is not None:
        return {name: size for name, size in index.sizes.items() if name in names}
    files = {name: corpus / "samples" / f"{name}.json" for name in names}
    return {name: sum(1 for _ in stream_samples(file)) for name, file in files.items() if file.is_file()}


def _print(recipe: "Recipe", plans: "list[StagePlan]", assumptions: "Assumptions") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, headings, cells in (
        (f"Plan of {recipe.name}", WORK, [(str(one.devices), *_work_cells(one)) for one in plans]),
        ("Memory of one device, and size of a checkpoint", MEMORY, [_memory_cells(one) for one in plans]),
    ):
        # a row for each quantity: the stages are few, and fit beside each other
        table = Table("", title=title, box=box.SIMPLE, padding=0, pad_edge=False)
        for one in plans:
            table.add_column(f" {one.name}", justify="right", overflow="fold")
        for heading, *row in zip(headings, *cells, strict=True):
            table.add_row(heading, *row)
        console.print(table)
    for line in _notes(plans, assumptions):
        console.print(line, highlight=False)


def _work_cells(one: "StagePlan") -> tuple[str, ...]:
    work, size = one.work, (f"{one.tokens_per_sample:g}", f"{one.images_per_sample:g}")
    if work is None:
        return (UNKNOWN, UNKNOWN, *size, *(UNKNOWN,) * 5)
    cost = "-" if work.cost is None else f"{work.cost:,.0f}"
    hours = (_hours(work.gpu_hours), _hours(work.wall_hours))
    counts = (f"{work.steps:,}", f"{work.samples:,}", *size, f"{work.tokens:,}")
    return (*counts, *hours, f"{work.energy_kwh:,.0f}", cost)


def _memory_cells(one: "StagePlan") -> tuple[str, ...]:
    states = (
        f"[bold]{_size(size)}[/bold]" if zero == one.zero_stage else _size(size)
        for zero, size in one.states_bytes.items()
    )
    rest = (one.activations_bytes, one.checkpoint_bytes, one.resume_bytes)
    return (f"{one.trainable / 1e6:,.0f} M", *states, *map(_size, rest))


def _notes(plans: "Iterable[StagePlan]", assumptions: "Assumptions") -> Iterable[str]:
    kind = assumptions.accelerator
    yield (
        f"Assumed: {kind.name} ({kind.operations_per_s / 1e12:.0f} TFLOP/s bfloat16, {_size(kind.memory_bytes)}, "
        f"{kind.watts} W) at {assumptions.utilisation:.0%} of its peak. Bold: the recipe's ZeRO stage. An estimate, "
        "not measured."
    )
    for one in plans:
        if one.peak_bytes > kind.memory_bytes:
            yield (
                f"{one.name}: would not fit: {_size(one.peak_bytes)} of {_size(kind.memory_bytes)} at this length; "
                "raise zero_stage or devices, or lower micro_batch"
            )
        if one.work is None:
            yield (
                f"{one.name}: steps are not known without the number of samples of {_some(one.unknown)}; give "
                "--corpus, or published_samples in the recipe"
            )


def _size(num_bytes: float) -> str:
    power = min(len(UNITS) - 1, int(math.log10(max(num_bytes, 1)) // 3))
    return f"{num_bytes / 1000**power:.3g} {UNITS[power]}"


def _hours(hours: float) -> str:
    return format_seconds(hours * 3600) if hours < 1 else f"{hours:,.1f}"


def _some(names: tuple[str, ...]) -> str:
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")
