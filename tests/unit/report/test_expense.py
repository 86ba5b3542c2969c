"""The page of what stages have cost: it needs nothing beside itself, and its numbers are those of the record."""

import re

import pytest

from tests.unit.train.test_expense import HOUR_S, attempt
from vilam3.report.expense import page, section
from vilam3.train.expense import Expense, Planned, Price, expense_of
from vilam3.train.ledger import Attempt


@pytest.fixture
def expense() -> Expense:
    """Of two attempts on four accelerators, of which the first lost half an hour."""
    first = attempt(began_s=0, marks={0: 0.0, 10: HOUR_S}, end_s=1.5 * HOUR_S, startup_s=360.0, devices=4)
    second = attempt(began_s=first.seen_s, marks={10: 0.0}, end_s=HOUR_S, startup_s=360.0, devices=4)
    planned = Planned(steps=20, gpu_hours=8.0, assumed="h100 at 35 % of its peak")
    return expense_of([first, second], steps=20, planned=planned, price=Price(per_hour=2.5, currency="EUR"))


def test_hours_money_energy_plan_and_error_are_told(expense: Expense) -> None:
    text = page("stage4 <expert>", {"stage4_expert": expense}, facts={"recipe": "one & two"})
    assert "<h1>stage4 &lt;expert&gt;</h1>" in text
    assert "one &amp; two" in text
    (row,) = re.findall(r"restart <span.*?</tr>", text)
    assert re.findall(r"<td>(.*?)</td>", row) == ["2.4000", "22.2 %", "6.0000", "0.0600"]
    (together,) = re.findall(r"<tr><th scope=\"row\">together.*?</tr>", text)
    assert re.findall(r"<td>(.*?)</td>", together) == ["10.8000", "", "27.0000", "0.2700"]
    assert "20 of 20" in text
    assert "<td>35.0 %</td>" in text  # more than planned
    assert "as their driver counts it" in text


def test_a_page_asks_for_nothing_from_elsewhere(expense: Expense) -> None:
    assert not re.findall(r"(?:src|href)=|https?://|@import|<script", page("stage", {"one": expense, "two": expense}))


def test_bars_are_as_long_as_their_hours(expense: Expense) -> None:
    short = expense_of([attempt(began_s=0, marks={0: 0.0}, end_s=0.35 * HOUR_S, startup_s=0.1 * HOUR_S, devices=6)])
    text = section({"long": expense, "short": short})
    widths: dict[str, float] = {}
    for y, width in re.findall(r'<rect class="cause-\w+" x="[\d.]+" y="(\d+)" width="([\d.]+)"', text):
        widths[y] = widths.get(y, 0.0) + float(width)
    assert widths["26"] / widths["0"] == pytest.approx(2.7 / 10.8, abs=0.001)


def test_processes_without_accelerators_show_no_money_and_no_energy() -> None:
    one = Attempt(holder="h", began_s=0, seen_s=HOUR_S, devices=2, device="", spent_s={"step": HOUR_S})
    text = page("stage", {"stage1_align": expense_of([one], steps=3)})
    assert "process-hours" in text
    assert "processes, no accelerator" in text
    assert "kWh" not in text
    assert section({}) == ""
