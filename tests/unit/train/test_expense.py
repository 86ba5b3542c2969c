"""What a stage has cost: every second of every device has one cause, whatever befell the attempts."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilam3.errors import UserError
from vilam3.objects import FolderStore
from vilam3.train import expense
from vilam3.train.expense import CAUSES, CURRENCY_VARIABLE, PRICE_VARIABLE, Expense, Planned, Price, expense_of
from vilam3.train.ledger import ACTIVITIES, Attempt, Holding, Ledger, Mark, attempts

HOUR_S = 3600.0


def attempt(
    *,
    began_s: float,
    marks: dict[int, float],
    end_s: float,
    startup_s: float = 10.0,
    holder: str = "one",
    devices: int = 2,
) -> Attempt:
    """Starts for a while, then computes; `marks` are saved steps and the seconds computed until then."""
    spent = {"startup": startup_s, "step": end_s}
    return Attempt(
        holder=holder,
        began_s=began_s,
        seen_s=began_s + startup_s + end_s,
        devices=devices,
        device="NVIDIA H100 80GB HBM3",
        spent_s=spent,
        energy_j={name: 100.0 * seconds for name, seconds in spent.items()},
        is_energy_measured=True,
        marks=tuple(
            Mark(
                step=step,
                spent_s={"startup": startup_s, "step": at_s},
                energy_j={"startup": 100.0 * startup_s, "step": 100.0 * at_s},
            )
            for step, at_s in marks.items()
        ),
    )


def test_work_after_the_checkpoint_that_a_later_attempt_went_on_from_is_lost() -> None:
    killed = attempt(began_s=1000, marks={0: 0.0, 10: 100.0}, end_s=130.0)
    second = attempt(began_s=1150, marks={10: 0.0, 20: 100.0}, end_s=150.0)
    found = expense_of([second, killed], steps=25)
    assert found.device_s["step"] == 2 * (100 + 150)
    assert found.device_s["startup"] == 2 * 10
    assert found.device_s["restart"] == 2 * (30 + 10 + 10)  # lost, between, started again
    assert found.queue_s == 0
    assert found.attempts == 2
    assert sum(found.device_s.values()) == pytest.approx(found.held_s)
    assert found.held_s == 2 * (second.seen_s - killed.began_s)


def test_between_attempts_of_different_holders_nothing_is_held() -> None:
    found = expense_of(
        [
            attempt(began_s=0, marks={0: 0.0}, end_s=20.0, holder="one"),
            attempt(began_s=530, marks={0: 0.0}, end_s=40.0, holder="two"),
        ]
    )
    assert found.queue_s == 500
    assert found.held_s == 2 * (30 + 50)
    assert found.device_s["restart"] == 2 * (20 + 10)
    assert found.device_s["step"] == 2 * 40


def test_an_older_checkpoint_that_had_to_serve_loses_more() -> None:
    """The newest one was damaged: what two attempts did after the older one is lost."""
    first = attempt(began_s=0, marks={0: 0.0, 10: 50.0, 20: 100.0}, end_s=105.0)
    second = attempt(began_s=115, marks={20: 0.0, 30: 40.0}, end_s=40.0)
    third = attempt(began_s=165, marks={10: 0.0}, end_s=60.0)
    found = expense_of([first, second, third])
    assert found.device_s["step"] == 2 * (50 + 0 + 60)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 5),
            st.floats(0, 50),
            st.floats(0, 30),
            st.integers(0, 8),
            st.sampled_from("ab"),
            st.integers(1, 8),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_causes_sum_to_wall_clock_times_devices_whatever_happened(
    story: list[tuple[float, float, float, int, str, int]],
) -> None:
    told, now_s = [], 0.0
    for startup_s, end_s, gap_s, step, holder, devices in story:
        one = attempt(
            began_s=now_s,
            marks={step: 0.0, step + 3: end_s / 2},
            end_s=end_s,
            startup_s=startup_s,
            holder=holder,
            devices=devices,
        )
        told.append(one)
        now_s = one.seen_s + gap_s
    found = expense_of(told)
    held_s = sum((one.seen_s - one.began_s) * one.devices for one in told)
    held_s += sum(
        (after.began_s - before.seen_s) * after.devices
        for before, after in pairwise(told)
        if before.holder == after.holder
    )
    assert found.held_s == pytest.approx(held_s, abs=0.01)
    assert sum(found.device_s.values()) == pytest.approx(held_s, abs=0.02)
    assert min(found.device_s.values()) >= -1e-6
    energy_j = sum(sum(one.energy_j.values()) for one in told)
    assert sum(found.energy_j.values()) == pytest.approx(energy_j, abs=2.0)


def test_money_is_device_hours_times_the_price_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRICE_VARIABLE, "2.5")
    monkeypatch.setenv(CURRENCY_VARIABLE, "EUR")
    one = attempt(began_s=0, marks={0: 0.0}, end_s=HOUR_S, startup_s=HOUR_S / 2, devices=4)
    found = expense_of([one], steps=7, planned=Planned(steps=7, gpu_hours=5.0, assumed="a guess"), price=Price.here())
    assert found.price == Price(per_hour=2.5, currency="EUR")
    assert found.cost == pytest.approx(6 * 2.5)
    assert found.energy_kwh == pytest.approx(100 * 1.5 / 1000)
    numbers = found.numbers()
    assert numbers["gpu_hours_step"] == pytest.approx(4)
    assert numbers["cost_startup"] == pytest.approx(2 * 2.5)
    assert sum(numbers[f"cost_{cause}"] for cause in CAUSES) == pytest.approx(numbers["cost_total"])
    assert numbers["plan_error"] == pytest.approx(0.2)
    assert Expense.from_json(found.to_json()) == found


def test_processes_without_accelerators_cost_no_money_and_claim_no_energy() -> None:
    one = Attempt(holder="h", began_s=0, seen_s=HOUR_S, devices=2, device="", spent_s={"step": HOUR_S})
    found = expense_of([one], price=Price(per_hour=2.5, currency="EUR"))
    assert found.unit == "process-hours"
    assert found.cost is None
    assert found.energy_kwh is None
    assert not [name for name in found.numbers() if name.startswith(("cost", "energy", "gpu"))]


def test_a_price_that_is_none_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRICE_VARIABLE, "cheap")
    with pytest.raises(UserError, match=PRICE_VARIABLE):
        Price.here()


def test_machines_held_longer_than_the_program_ran_are_a_cause_of_their_own() -> None:
    found = expense_of([attempt(began_s=0, marks={0: 0.0}, end_s=90.0)]).held(160.0, queue_s=33.0)
    assert found.device_s["machines"] == 2 * 60
    assert sum(found.device_s.values()) == found.held_s == 2 * 160
    assert found.queue_s == 33


def test_every_cause_has_a_meaning() -> None:
    assert set(expense.MEANING) == {*CAUSES, "queue"}
    assert set(ACTIVITIES) < set(CAUSES)


def test_a_ledger_counts_what_is_within_something_else_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("vilam3.train.ledger.time.monotonic", lambda: now[0])
    ledger = Ledger(None, "run", holding=Holding())
    now[0] = 5.0
    ledger.begun(0)
    with ledger.spent("saving"):
        now[0] = 7.0
        with ledger.spent("checkpoint"):
            now[0] = 17.0
        now[0] = 18.0
    (found,) = ledger.attempts()
    assert found.spent_s["startup"] == pytest.approx(5)
    assert found.spent_s["saving"] == pytest.approx(3)
    assert found.spent_s["checkpoint"] == pytest.approx(10)
    assert found.spent_s["other"] == 0


def test_energy_is_shared_out_over_what_was_done_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("vilam3.train.ledger.time.monotonic", lambda: now[0])
    ledger = Ledger(None, "run", holding=Holding(device="some"))
    ledger.begun(0)
    with ledger.spent("step"):
        now[0] = 3.0
    with ledger.spent("data"):
        now[0] = 4.0
    ledger.used(1000.0)
    with ledger.spent("step"):
        now[0] = 5.0
    ledger.used(1600.0)
    (found,) = ledger.attempts()
    assert found.energy_j["step"] == pytest.approx(750 + 600)
    assert found.energy_j["data"] == pytest.approx(250)


def test_a_ledger_is_found_again_and_its_last_sign_of_life_is_where_the_next_begins(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    first = Ledger(store, "run", holding=Holding(began_s=1.0, holder="job"))
    first.close()
    (there,) = attempts(store, "run/ledger")
    assert there.began_s == 1.0
    second = Ledger(store, "run", holding=Holding(began_s=1.0, holder="other"))
    assert [one.holder for one in second.attempts()] == ["job", "other"]
    assert second.attempts()[1].began_s == pytest.approx(there.seen_s)
    second.clear()
    assert attempts(store, "run/ledger") == []
