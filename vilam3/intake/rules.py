"""What an installation allows: how soon after a start the next, and how many runs at once."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from vilam3.errors import UserError
from vilam3.intake.event import Starts
from vilam3.intake.records import Records, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Of an installation, for each pipeline.

    Attributes:
        cool_down_s: From one start to the next.
        most_at_once: Runs of the intake at a time; 0 sets no bound. Those that a person started by hand do not count.
    """

    cool_down_s: float = 0.0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        """Check what a user may get wrong."""
        if not 0 <= self.cool_down_s < float("inf") or self.most_at_once < 0:
            raise UserError(
                f"intake: cool-down {self.cool_down_s} s and {self.most_at_once} runs at once must not be negative"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why a run may not start now; `until` is None where no time can be told."""

    reason: str
    until: datetime | None = None


def hold(rules: Rules, pipeline: str, *, records: Records, starts: Starts) -> Hold | None:
    """What keeps a run of this pipeline from starting now, or None.

    Raises:
        EngineError: it cannot be asked what is running.
        ArtifactError: the store refuses or is out of reach.
    """
    latest = records.latest(pipeline)
    if latest is not None and now() < (until := latest + timedelta(seconds=rules.cool_down_s)):
        return Hold(reason=f"{pipeline} was started less than {rules.cool_down_s:g} s ago", until=until)
    if rules.most_at_once and (running := _running(pipeline, records, starts)) >= rules.most_at_once:
        return Hold(
            reason=f"{running} of {pipeline} are running, and {rules.most_at_once} may; it waits for one to end"
        )
    return None


def _running(pipeline: str, records: Records, starts: Starts) -> int:
    count = 0
    for name in records.opened(pipeline):
        found = starts.find(name)
        if found is not None and found.state == "running":
            count += 1
        else:
            records.close(name)
    return count
