"""The whole loop on this machine: the finetune pipeline, then a server of its model, asked about real images."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.finetune import finetune
from pipelines.here import Finished, run_here
from pipelines.memory import PeakMemory
from pipelines.place import Place
from pipelines.server import served
from vilam3.artifacts import write_json, write_text
from vilam3.cli.main import main as vilam3
from vilam3.dialogue.record import NOTICE
from vilam3.errors import ArtifactError, EngineError
from vilam3.evaluate.assess import COMPARISON
from vilam3.evaluate.results import Comparison
from vilam3.recipe import Recipe
from vilam3.report.summary import table

LATEST = "latest"
SUMMARY = "summary.json"
REPORT = "report.html"
REFUSED = 2  # exit code where the gate refused
CAUTION = (
    f"{NOTICE}. This model has seen phantoms only: its answers about real images show the path from file to answer, "
    "not skill."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question about an image that a distribution carries."""

    name: str
    image: Path
    modality: str
    question: str


def demo(recipe: Recipe, *, runs: Path) -> int:
    """Run what has no result yet, ask, and leave report, summary, model and answers under ``runs/latest``.

    Returns:
        0, or 2 where the gate refused the model.
    """
    started = time.monotonic()
    out = Console()
    with PeakMemory() as memory:
        done = run_here(finetune(recipe, place=Place()), recipe, runs=runs)
        _publish(done, runs)
        answers = _ask_about_real_images(done, out)
    summary = done.summary | {
        "answers": answers,
        "seconds_total": round(time.monotonic() - started, 1),
        "peak_rss_mb": round(memory.peak_mb, 1),
    }
    write_json(done.folder / SUMMARY, summary)
    _close(done, summary, runs, out)
    return 0 if summary["gate"]["passed"] else REFUSED


def queries() -> list[Query]:
    """Real images, from the distributions of pydicom and nibabel."""
    from nibabel.testing import data_path  # noqa: PLC0415 - imports numpy's test tools
    from pydicom.data import get_testdata_file  # noqa: PLC0415 - likewise slow

    dicom = {name: Path(str(get_testdata_file(f"{name}_small.dcm", download=False))) for name in ("CT", "MR")}
    return [
        Query(name="ct", image=dicom["CT"], modality="CT", question="Is there a hepatic tumor?"),
        Query(name="ct-organs", image=dicom["CT"], modality="CT", question="Segment the organs in the image"),
        Query(name="mr", image=dicom["MR"], modality="MRI", question="What glioma grade is shown in the image?"),
        Query(
            name="mr-volume",
            image=Path(data_path) / "anatomical.nii",
            modality="MRI",
            question="What glioma grade is shown in the image?",
        ),
    ]


def _publish(done: Finished, runs: Path) -> None:
    """Name what a person looks for."""
    write_text(done.folder / REPORT, done.page.read_text(encoding="utf-8"))
    for name in ("model", "experts", "corpus", "evaluation"):
        _point(done.folder / name, getattr(done, name))
    write_json(done.folder / "gate.json", done.summary["gate"])
    _point(runs / LATEST, done.folder)


def _point(link: Path, target: Path) -> None:
    """Make `link` a relative link to `target` in one step, so that the folder can be moved as a whole."""
    if link.exists() and not link.is_symlink():
        raise ArtifactError(f"{link}: is not a link of ours; move it away and run again")
    fresh = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
    fresh.replace(link)


def _ask_about_real_images(done: Finished, out: Console) -> list[dict[str, Any]]:
    answers = []
    with served(done.model, experts=done.experts, log=done.folder / "serve.log") as url:
        version = f"{done.summary['model']} version {done.summary['model_version']}"
        out.print(f"\n{version} is served at {url} and asked about real images.", highlight=False)
        out.print(CAUTION, style="bold")
        for query in queries():
            out.print(f"\n{query.image.name}: {query.question}", style="bold", highlight=False)
            folder = done.folder / "answers" / query.name
            answers.append({"name": query.name, "question": query.question, "image": query.image.name})
            _ask(url, query, folder)
    return answers


def _ask(url: str, query: Query, folder: Path) -> None:
    """Through the program, as a person would; it prints the conversation and saves overlays."""
    words = ["ask", "--server", url, "--image", str(query.image), "--modality", query.modality, "--out", str(folder)]
    if code := vilam3([*words, query.question]):
        raise EngineError(
            f"asking about {query.image.name} ended with code {code}; the server's words are in serve.log"
        )


def _close(done: Finished, summary: Mapping[str, Any], runs: Path, out: Console) -> None:
    out.print()
    for one in table(Comparison.read(done.evaluation / COMPARISON), summary):
        out.print(one)
    taken = [step for step, state in done.states.items() if state == "re-used"]
    if taken:
        out.print(f"Re-used from an earlier run: {', '.join(taken)}.", highlight=False)
    place = runs / LATEST
    out.print(f"{place / REPORT}, {place / SUMMARY}, {place / 'answers'}/", highlight=False)
    for reason in summary["gate"]["reasons"]:
        out.print(f"gate: {reason}", style="bold red", highlight=False)
