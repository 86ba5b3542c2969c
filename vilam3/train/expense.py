"""What a stage has cost, by cause: the attempts at it added up, with what was lost between and because of them.

Every second that a device was held has one cause, so that they sum to wall clock times devices. Waiting in a queue
holds nothing and costs nothing; it is told beside.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from vilam3.errors import UserError
from vilam3.train.ledger import Attempt, Mark

Cause = Literal["step", "data", "checkpoint", "validation", "saving", "startup", "restart", "machines", "other"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
MEANING: Mapping[str, str] = {
    "step": "computing steps that count",
    "data": "waiting for batches",
    "checkpoint": "held up by checkpoints",
    "validation": "measuring on held-out samples",
    "saving": "writing models and telling the tracking store",
    "startup": "from the start of the program to the first step",
    "restart": "lost by interruptions: work since the last checkpoint, the time between, starting again",
    "machines": "held before and after the program: image, start of the cluster, release",
    "other": "not accounted for",
    "queue": "waiting without holding anything",
}
PRICE_VARIABLE = "VILAM3_PRICE_PER_GPU_HOUR"
CURRENCY_VARIABLE = "VILAM3_CURRENCY"
HOUR_S = 3600.0
KWH_J = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one accelerator for an hour."""

    per_hour: float
    currency: str

    @classmethod
    def here(cls) -> "Price | None":
        """That of the installation; None where it states none.

        Raises:
            UserError: it is no price.
        """
        text = os.environ.get(PRICE_VARIABLE, "")
        if not text:
            return None
        try:
            per_hour = float(text)
        except ValueError:
            per_hour = -1.0
        if not 0 <= per_hour < float("inf"):
            raise UserError(f"{PRICE_VARIABLE}={text}: must be a number that is not negative; leave it empty for none")
        return cls(per_hour=per_hour, currency=os.environ.get(CURRENCY_VARIABLE, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What was estimated before the first step.

    Attributes:
        steps: Optimizer steps.
        gpu_hours: Of the accelerators; None where there are none whose data sheet is known.
        assumed: In words, what that rests on.
    """

    steps: int
    gpu_hours: float | None = None
    assumed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expense:
    """What a stage has cost.

    Attributes:
        devices: Processes of the last attempt, an accelerator each where there are any.
        device: Kind of accelerator; empty where there is none, and processes are counted.
        attempts: At the stage.
        steps: That were done and count.
        held_s: Wall clock times devices.
        device_s: The same by cause.
        queue_s: Wall clock without any.
        energy_j: By cause, of the accelerators; empty where nothing is known of it.
        is_energy_measured: False where it is the power limit times the time, at most.
        price: None where the installation states none, or there are no accelerators.
        planned: None where nothing was.
    """

    devices: int
    device: str
    attempts: int
    steps: int
    held_s: float
    device_s: Mapping[str, float]
    queue_s: float
    energy_j: Mapping[str, float] = field(default_factory=dict)
    is_energy_measured: bool = False
    price: Price | None = None
    planned: Planned | None = None

    @property
    def unit(self) -> str:
        """Of what is counted: ``GPU-hours`` or, without accelerators, ``process-hours``."""
        return "GPU-hours" if self.device else "process-hours"

    def hours(self, cause: str) -> float:
        """Device-hours of a cause."""
        return self.device_s.get(cause, 0.0) / HOUR_S

    @property
    def total_hours(self) -> float:
        """Device-hours of all causes."""
        return sum(self.device_s.values()) / HOUR_S

    @property
    def energy_kwh(self) -> float | None:
        """Of all causes."""
        return sum(self.energy_j.values()) / KWH_J if self.energy_j else None

    @property
    def cost(self) -> float | None:
        """Of all causes, in the currency of the price."""
        return None if self.price is None else self.total_hours * self.price.per_hour

    @property
    def plan_error(self) -> float | None:
        """By how much the plan was wrong, as a share of it: 0.1 is a tenth more than planned."""
        if self.planned is None or not self.planned.gpu_hours:
            return None
        return self.total_hours / self.planned.gpu_hours - 1

    def numbers(self) -> dict[str, float]:
        """For a tracking store."""
        unit = "gpu_hours" if self.device else "process_hours"
        found = {f"{unit}_{cause}": self.hours(cause) for cause in CAUSES}
        found |= {f"{unit}_total": self.total_hours, "queue_hours": self.queue_s / HOUR_S}
        found["attempts"] = float(self.attempts)
        if self.price is not None:
            found |= {f"cost_{cause}": self.hours(cause) * self.price.per_hour for cause in CAUSES}
            found["cost_total"] = self.total_hours * self.price.per_hour
        if self.energy_kwh is not None:
            found |= {f"energy_kwh_{cause}": joules / KWH_J for cause, joules in self.energy_j.items()}
            found["energy_kwh_total"] = self.energy_kwh
        if self.planned is not None:
            found["planned_steps"] = float(self.planned.steps)
            found |= {} if self.planned.gpu_hours is None else {"planned_gpu_hours": self.planned.gpu_hours}
        if self.plan_error is not None:
            found["plan_error"] = self.plan_error
        return found

    def held(self, seconds: float, *, queue_s: float = 0.0) -> "Expense":
        """The same where all devices are known to have been held for so long, and to have waited for `queue_s`."""
        more_s = max(0.0, seconds * self.devices - self.held_s)
        causes = {**self.device_s, "machines": self.device_s.get("machines", 0.0) + more_s}
        waited_s = max(queue_s, self.queue_s)
        return replace(self, held_s=self.held_s + more_s, device_s=causes, queue_s=waited_s)

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Expense":
        """As it was recorded."""
        price, planned = values.get("price"), values.get("planned")
        return cls(
            **{
                **values,
                "price": None if price is None else Price(**price),
                "planned": None if planned is None else Planned(**planned),
            }
        )


def expense_of(
    attempts: Sequence[Attempt], *, steps: int = 0, planned: Planned | None = None, price: Price | None = None
) -> Expense:
    """Add up the attempts at a stage.

    Args:
        attempts: All of them; there is at least one.
        steps: That were done and count.
        planned: Before the first step.
        price: Of an accelerator; ignored where there is none.
    """
    ordered = sorted(attempts, key=lambda one: one.began_s)
    device_s: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
    energy_j: dict[str, float] = {}
    queue_s, held_s = 0.0, 0.0
    for place, attempt in enumerate(ordered):
        before = ordered[place - 1] if place else None
        gap_s = 0.0 if before is None else max(0.0, attempt.began_s - before.seen_s)
        if before is not None and before.holder == attempt.holder:
            device_s["restart"] += gap_s * attempt.devices
            held_s += gap_s * attempt.devices
        else:
            queue_s += gap_s
        held_s += (attempt.seen_s - attempt.began_s) * attempt.devices
        mark = _survives(attempt, ordered[place + 1 :])
        for cause, seconds in _by_cause(attempt.spent_s, mark.spent_s if mark else None, is_again=place > 0).items():
            device_s[cause] += seconds * attempt.devices
        for cause, joules in _by_cause(attempt.energy_j, mark.energy_j if mark else None, is_again=place > 0).items():
            energy_j[cause] = energy_j.get(cause, 0.0) + joules
    has_energy = any(one.energy_j for one in ordered)
    last = ordered[-1]
    return Expense(
        devices=last.devices,
        device=last.device,
        attempts=len(ordered),
        steps=steps,
        held_s=round(held_s, 3),
        device_s={cause: round(seconds, 3) for cause, seconds in device_s.items()},
        queue_s=round(queue_s, 3),
        energy_j={cause: round(joules, 1) for cause, joules in energy_j.items() if has_energy},
        is_energy_measured=all(one.is_energy_measured for one in ordered),
        price=price if last.device else None,
        planned=planned,
    )


def _survives(attempt: Attempt, later: Sequence[Attempt]) -> Mark | None:
    """Up to where the work of an attempt counts; None: all of it."""
    begins = [one.marks[0].step for one in later if one.marks]
    if not begins or not attempt.marks:
        return None
    return max(
        (mark for mark in attempt.marks if mark.step <= min(begins)),
        default=attempt.marks[0],
        key=lambda mark: mark.step,
    )


def _by_cause(spent: Mapping[str, float], survives: Mapping[str, float] | None, *, is_again: bool) -> dict[str, float]:
    """What of an attempt counts as what; what was done after the point that survives was lost."""
    found: dict[str, float] = {"restart": 0.0}
    for activity, amount in spent.items():
        counts = amount if survives is None else survives.get(activity, 0.0)
        found["restart"] += amount - counts
        cause = "restart" if activity == "startup" and is_again else activity
        found[cause] = found.get(cause, 0.0) + counts
    return found
