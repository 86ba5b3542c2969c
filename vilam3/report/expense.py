"""What stages have cost, for people: a table by cause with a drawing, in a page of its own or within another."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from vilam3 import __version__
from vilam3.train.expense import CAUSES, HOUR_S, KWH_J, MEANING, Expense

TEMPLATE = "expense.html.j2"
BAR_WIDTH = 700.0
ROW_HEIGHT, BAR_HEIGHT, LABEL_WIDTH = 26, 18, 160
MANY = 100.0


def page(
    title: str,
    stages: Mapping[str, Expense],
    *,
    facts: Mapping[str, str] | None = None,
    failure: tuple[str, str] | None = None,
) -> str:
    """A page that needs nothing beside itself.

    Args:
        title: Of the page.
        stages: What each has cost, in order.
        facts: Shown above, by name.
        failure: What it is called and a sentence about it, shown before all else.
    """
    fragment = section(stages)
    return (
        _environment()
        .from_string(PAGE)
        .render(title=title, facts=dict(facts or {}), failure=failure, expense=fragment, version=__version__)
    )


def section(stages: Mapping[str, Expense]) -> str:
    """The part of a page, with its own styles; nothing where there are no stages."""
    if not stages:
        return ""
    text = resources.files("vilam3.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return (
        _environment()
        .from_string(text)
        .render(
            stages=stages,
            rows=[_row(cause, stages) for cause in CAUSES if _is_worth_a_row(cause, stages)],
            bars=_bars(stages),
            height=ROW_HEIGHT * len(stages),
            width=LABEL_WIDTH + BAR_WIDTH,
            bar_height=BAR_HEIGHT,
            unit=_unit(stages),
            total=_total(stages),
            queue_hours=[one.queue_s / HOUR_S for one in stages.values()],
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"hours": _figure, "percent": lambda value: f"{100 * value:.1f} %"}
    return environment


def _figure(value: float | None) -> str:
    """Four digits, without an exponent; a dash where nothing is known."""
    if value is None:
        return "-"
    if value >= MANY:
        return f"{value:,.1f}"
    return f"{value:.4f}" if value else "0"


def _is_worth_a_row(cause: str, stages: Mapping[str, Expense]) -> bool:
    return cause == "other" or any(one.device_s.get(cause) for one in stages.values())


def _unit(stages: Mapping[str, Expense]) -> str:
    units = {one.unit for one in stages.values()}
    return units.pop() if len(units) == 1 else "device-hours"


def _row(cause: str, stages: Mapping[str, Expense]) -> dict[str, Any]:
    found = list(stages.values())
    all_hours = sum(one.total_hours for one in found)
    hours = [one.hours(cause) for one in found]
    return {
        "cause": cause,
        "meaning": MEANING[cause],
        "hours": hours,
        "total": sum(hours),
        "share": sum(hours) / all_hours if all_hours else 0.0,
        "cost": _sum([None if one.price is None else one.hours(cause) * one.price.per_hour for one in found]),
        "energy": _sum([one.energy_j.get(cause, 0.0) / KWH_J if one.energy_j else None for one in found]),
    }


def _total(stages: Mapping[str, Expense]) -> dict[str, Any]:
    found = list(stages.values())
    prices = {one.price for one in found if one.price is not None}
    return {
        "hours": [one.total_hours for one in found],
        "held": [one.held_s / HOUR_S for one in found],
        "total": sum(one.total_hours for one in found),
        "cost": _sum([one.cost for one in found]),
        "currency": " or ".join(sorted({price.currency for price in prices})),
        "energy": _sum([one.energy_kwh for one in found]),
        "is_measured": all(one.is_energy_measured for one in found if one.energy_j),
        "error": [one.plan_error for one in found],
    }


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _bars(stages: Mapping[str, Expense]) -> list[dict[str, Any]]:
    """One bar a stage, as long as its hours; its parts from left to right in the order of the causes."""
    longest = max(one.total_hours for one in stages.values()) or 1.0
    bars = []
    for place, (name, one) in enumerate(stages.items()):
        left, parts = float(LABEL_WIDTH), []
        for cause in CAUSES:
            width = BAR_WIDTH * one.hours(cause) / longest
            parts.append({"cause": cause, "x": round(left, 2), "width": round(width, 2), "hours": one.hours(cause)})
            left += width
        bars.append({"name": name, "y": place * ROW_HEIGHT, "parts": parts})
    return bars


PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2430; --faint: #5b6675; --rule: #c9d0d9; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181e; --ink: #e6eaf0; --faint: #a0abb8; --rule: #414b57; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; }
.wide { overflow-x: auto; } .quiet { color: var(--faint); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .3rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--faint); }
tfoot td, tfoot th { font-weight: 700; }
.words td, .words th { text-align: left; overflow-wrap: anywhere; } .words th { width: 14rem; }
.failed { border-left: .3rem solid #b3261e; padding-left: 1rem; }
svg { width: 100%; height: auto; font-family: system-ui, sans-serif; }
</style></head><body>
<h1>{{ title }}</h1>
{% if failure %}
<p class="failed"><strong>{{ failure[0] }}</strong>: {{ failure[1] }}.</p>
{% endif %}
{% if facts %}
<table class="words"><tbody>
{% for name, value in facts.items() %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
{{ expense|safe }}
<p class="quiet">vilam3 {{ version }}</p>
</body></html>
"""
