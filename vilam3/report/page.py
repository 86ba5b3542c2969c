"""The report: one HTML page that needs nothing beside itself."""

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from vilam3 import __version__
from vilam3.artifacts import write_text
from vilam3.dialogue.record import NOTICE
from vilam3.evaluate.examples import read_examples
from vilam3.evaluate.results import Selection
from vilam3.progress import format_seconds
from vilam3.report.expense import section
from vilam3.report.figures import loss_curves, task_bars
from vilam3.report.summary import Findings, interval, percent, summarise

TEMPLATE = "report.html.j2"
LONG_TEXT = 280  # characters of a message shown at once; the rest folds away


def write_report(findings: Findings, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render(findings))


def render(findings: Findings) -> str:
    """The page as text."""
    summary = summarise(findings)
    return _template().render(
        notice=NOTICE,
        version=__version__,
        summary=summary,
        comparison=findings.comparison,
        stages=findings.stages,
        slowest=max((stage.seconds for stage in findings.stages), default=1.0) or 1.0,
        expense=section({stage.name: stage.expense for stage in findings.stages if stage.expense is not None}),
        losses=loss_curves(findings.stages) if findings.stages else "",
        bars=task_bars(findings.comparison.tasks),
        confusion=_confusion(findings.comparison.selection),
        examples=[_example(folder, record) for folder, record in read_examples(findings.examples)],
        provenance=_provenance(findings),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "interval": interval,
        "points": partial(interval, unit=" pp"),
        "duration": format_seconds,
    }
    text = resources.files("vilam3.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text)


def _confusion(selection: Selection) -> list[dict[str, Any]]:
    """Rows of the table: each expected call with the counts of what was called, and their shares for the shading."""
    rows = []
    for label, counts in zip(selection.labels, selection.counts, strict=True):
        total = sum(counts)
        cells = [
            {"count": count, "share": count / total if total else 0.0, "is_right": other == label}
            for other, count in zip(selection.labels, counts, strict=True)
        ]
        rows.append({"label": label, "total": total, "cells": cells})
    return rows


def _example(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    messages = [
        {**message, "images": [_data_url(folder / name) for name in message["images"]], **_folded(message["text"])}
        for message in record["messages"]
    ]
    return {**record, "messages": messages}


def _folded(text: str) -> dict[str, str]:
    """Model cards are long and the question comes last, so it is the end of a long text that is shown."""
    shown = text if len(text) <= LONG_TEXT else text[-LONG_TEXT:]
    return {"hidden": text[: len(text) - len(shown)], "shown": shown}


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _provenance(findings: Findings) -> Sequence[tuple[str, str]]:
    found, release = findings.comparison.provenance, findings.release
    rows = [
        ("recipe", f"{findings.recipe.name}, sha256 {findings.recipe.digest}"),
        ("seed", str(findings.recipe.seed)),
        ("weights", f"sha256 {release.weights}"),
        ("experts", f"sha256 {found.experts}"),
        ("held-out questions and studies", f"{found.split}, sha256 {found.corpus}"),
        ("wording", f"{found.dialect} dialect, at most {found.max_new_tokens} new tokens, greedy"),
        ("bootstrap", f"{found.resamples} resamples of patients, seed {found.seed}"),
        ("program", f"vilam3 {found.version}"),
    ]
    if findings.stages:
        rows += [(name, value) for name, value in sorted(findings.stages[-1].settings.items())]
    return rows
