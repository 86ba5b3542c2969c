"""What a watcher says of a job, and when."""

import threading
from dataclasses import dataclass, field

from vilam3.launch.status import Finding, Observation
from vilam3.launch.watch import Deadlines, Watch

DEADLINES = Deadlines(starting_s=1000.0, stalled_s=1000.0)
PULLING = Finding(incident="image", pod="worker", node="gpu-1", is_standing=True, detail="Back-off pulling image")


@dataclass(slots=True)
class Given:
    """A job that was seen so, look by look."""

    looks: list[Observation]
    marks: int = 0
    said: list[str] = field(default_factory=list)

    def observe(self) -> Observation | None:
        """The next look."""
        return self.looks.pop(0) if self.looks else None

    def mark(self) -> None:
        """Count."""
        self.marks += 1


def watched(*looks: Observation) -> list[str]:
    source = Given(list(looks))
    Watch(source, deadlines=DEADLINES, say=source.said.append, every_s=0.001).until_over(threading.Event())
    assert source.marks == 1
    return source.said


def test_trouble_is_told_as_soon_as_it_is_there_and_once() -> None:
    """Without waiting for the next line, which people need not read more than once a minute."""
    fine, broken = Observation(phase="starting"), Observation(phase="starting", findings=(PULLING,))
    said = watched(fine, fine, broken, broken, broken, fine, broken)
    told = "starting for 0:00, pod worker waits: Back-off pulling image"
    assert said == ["starting for 0:00", told, told]


def test_a_phase_is_told_when_it_begins() -> None:
    queued, starting = Observation(phase="queued"), Observation(phase="starting")
    assert watched(queued, queued, starting, queued) == ["queued for 0:00", "starting for 0:00", "queued for 0:00"]
