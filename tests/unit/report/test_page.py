"""The page and the summary of a run."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.evaluate import clinic
from tests.unit.evaluate.test_gate import comparison
from vilam3.evaluate.examples import write_examples
from vilam3.evaluate.gate import GateDecision
from vilam3.evaluate.release import Release
from vilam3.evaluate.run import examination
from vilam3.evaluate.scores import Score
from vilam3.recipe import load
from vilam3.report.figures import running_mean
from vilam3.report.page import render, write_report
from vilam3.report.summary import Findings, interval, percent, summarise, table
from vilam3.train.record import StageResult

TINY = Path(__file__).parents[3] / "pipelines" / "recipes" / "tiny.toml"
ACCEPTED = {
    "accuracy_without_experts",
    "accuracy_with_experts",
    "gain",
    "gain_ci95",
    "expert_selection_accuracy",
    "stages",
    "model_version",
    "gate",
}
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks nesting and collects what a page refers to."""

    def __init__(self) -> None:
        """Nothing read yet."""
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.unlabelled: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag."""
        values = dict(attrs)
        self.references += [values[key] or "" for key in ("src", "href", "xlink:href") if key in values]
        if tag == "img" and not values.get("alt"):
            self.unlabelled.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element of the drawings."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag."""
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    root = tmp_path_factory.mktemp("report")
    asked = examination(clinic.corpus(root / "corpus"), split="test")
    write_examples(asked, clinic.asker(), root / "examples")
    return Findings(
        recipe=load([TINY]),
        stages=[_stage("stage1_align"), _stage("stage4_expert")],
        experts={"cxr": {"auc": 0.9}},
        checkpoints=[
            Score(checkpoint="step-00000025", accuracy=0.9375, is_chosen=True),
            Score(checkpoint="stage4_expert", accuracy=0.875, is_chosen=False),
        ],
        comparison=comparison(),
        release=Release(
            model="vila-m3-<tiny>",
            version=3,
            alias="challenger",
            weights="ab" * 32,
            source="file:///somewhere",
            compared_with=2,
            gate=GateDecision(
                passed=False, reasons=("gain is 0.010, below gate.min_gain=0.15",), numbers={"gain": 0.01}
            ),
        ),
        examples=root / "examples",
    )


def _stage(name: str) -> StageResult:
    return StageResult(
        name=name,
        recipe="tiny",
        steps=3,
        samples=96,
        seconds=61.5,
        final_loss=0.5,
        losses=(3.0, 1.0, 0.5),
        inputs={},
        inputs_digest="i",
        weights_digest="w",
        settings={"torch": "2"},
    )


@pytest.fixture(scope="module")
def page(findings: Findings) -> str:
    return render(findings)


def test_the_page_is_whole_and_needs_nothing_beside_itself(page: str) -> None:
    parsed = Page()
    parsed.feed(page)
    assert parsed.open == []
    assert parsed.unlabelled == []
    assert all(one.startswith(("data:image/png", "#")) for one in parsed.references)
    assert set(re.findall(r"https?://[\w.]+", page)) <= {"http://www.w3.org"}  # names of SVG's vocabulary
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)


def test_the_page_shows_each_conversation_and_says_what_the_gate_refused(page: str) -> None:
    assert page.count('<article class="talk"') == 2  # the clinic has two experts to need
    assert "gain is 0.010, below gate.min_gain=0.15" in page
    assert "Draft for a clinician; research use only" in page


def test_the_page_compares_the_checkpoints_and_says_which_was_chosen(page: str) -> None:
    table = page.partition("<caption>Checkpoints of the last stage")[2].partition("</table>")[0]
    kept, final = table.partition("<tbody>")[2].strip().splitlines()[:2]
    assert "step-00000025" in kept
    assert "93.8 %" in kept
    assert "chosen" in kept
    assert "final" in final
    assert "87.5 %" in final
    assert "chosen" not in final


def test_nothing_said_becomes_markup(page: str) -> None:
    assert "vila-m3-<tiny>" not in page
    assert "vila-m3-&lt;tiny&gt;" in page
    assert "<CXR()>" not in page


def test_the_page_has_light_and_dark_colours_that_its_drawings_use(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "var(--with)" in page[page.index("<svg") :]
    assert "#0d0e0f" not in page


def test_the_same_findings_give_the_same_page(findings: Findings, page: str, tmp_path: Path) -> None:
    write_report(findings, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_the_summary_has_the_promised_fields(findings: Findings) -> None:
    summary = summarise(findings)
    assert set(summary) >= ACCEPTED
    assert summary["stages"][0].items() >= {"name": "stage1_align", "seconds": 61.5, "final_loss": 0.5}.items()
    assert summary["model_version"] == 3


def test_the_table_names_what_was_refused(findings: Findings) -> None:
    console = Console(width=140, record=True)
    for one in table(findings.comparison, {**summarise(findings), "seconds_total": 75.0, "peak_rss_mb": 1234.0}):
        console.print(one)
    shown = console.export_text()
    assert "refused: gain is 0.010" in shown
    assert "95.0 (90.0..99.0)" in shown
    assert "1:15" in shown


def test_a_figure_that_is_not_there_is_a_dash() -> None:
    assert interval(None) == percent(None) == "-"


def test_a_running_mean_starts_with_what_there_is() -> None:
    assert running_mean([4.0, 2.0, 0.0], steps=2) == [4.0, 3.0, 1.0]
