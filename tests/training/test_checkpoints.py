"""Checkpoints of a gang: whatever is killed, cut short or altered, the end is the same to the bit."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.training.processes import Mischief, Place, finished, run_gang
from tests.training.test_equal import GATED
from vilam3.objects import open_store
from vilam3.train.strategy import StrategyName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
KILLED = -9
STRATEGIES: tuple[StrategyName, ...] = ("ddp", "zero2", "zero3")
MOST_ATTEMPTS, KILLS = 40, 50


@pytest.fixture
def undisturbed(place: Place, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The stage trained by two, in one go."""
    return finished(run_gang(place, 2, request.param, out="undisturbed"))


def shards(place: Place) -> list[Path]:
    """Of the newest whole checkpoint."""
    found = sorted((place.folder / "checkpoints").glob("*/step-*/manifest.json"))
    return sorted(found[-1].parent.glob("*.safetensors"))


def steps_of(place: Place) -> list[int]:
    """Steps told by all gangs of the place, in order."""
    logs = sorted(place.folder.glob("notes-*/steps"))
    return [int(line) for log in logs for line in log.read_text().split()]


@pytest.mark.parametrize(("strategy", "undisturbed"), [(one, one) for one in STRATEGIES], indirect=["undisturbed"])
def test_killed_in_every_write_it_ends_bit_identical(
    place: Place, strategy: StrategyName, undisturbed: dict[str, Any]
) -> None:
    """Either member dies in the middle of a write, one write later from gang to gang, until one gets through."""
    for attempt in range(1, MOST_ATTEMPTS):
        endings = run_gang(place, 2, strategy, mischief=Mischief(rank=attempt % 2, dies_in_put=(attempt + 1) // 2))
        if all(ending.code == 0 for ending in endings):
            break
        assert KILLED in {ending.code for ending in endings}
        assert not (place.folder / "out").exists()
    found = finished(endings)
    assert attempt > 4
    assert (found["losses"], found["weights_digest"]) == (undisturbed["losses"], undisturbed["weights_digest"])


@pytest.mark.parametrize(("strategy", "undisturbed"), [("zero2", "zero2")], indirect=["undisturbed"])
def test_killed_after_any_step_it_ends_bit_identical(
    place: Place, strategy: StrategyName, undisturbed: dict[str, Any]
) -> None:
    drawn = random.Random(7)  # noqa: S311 - of a test
    for step in (2, 4, 5, 7):
        endings = run_gang(place, 2, strategy, mischief=Mischief(rank=drawn.randrange(2), dies_after_step=step))
        assert KILLED in {ending.code for ending in endings}
    found = finished(run_gang(place, 2, strategy))
    assert (found["losses"], found["weights_digest"]) == (undisturbed["losses"], undisturbed["weights_digest"])


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
@pytest.mark.parametrize("changes", [{"lora_rank": 4, "lora_kind": "dora"}, GATED], ids=["dora", "gated"])
def test_killed_while_adapting_it_ends_bit_identical(
    place: Place, changes: dict[str, object], strategy: StrategyName
) -> None:
    adapting = place.changed(**changes)
    undisturbed = finished(run_gang(adapting, 2, strategy, out="undisturbed"))
    endings = run_gang(adapting, 2, strategy, mischief=Mischief(rank=1, dies_after_step=7, settles=True))
    assert KILLED in {ending.code for ending in endings}
    found = finished(run_gang(adapting, 2, strategy))
    assert (found["losses"], found["weights_digest"]) == (undisturbed["losses"], undisturbed["weights_digest"])


def test_killed_at_fifty_random_points_it_ends_bit_identical(place: Place) -> None:
    """Any member, up to five steps behind the newest whole checkpoint, whatever is being written then."""
    long = place.changed(steps=5 * KILLS + 10, checkpoint_every_steps=5)
    undisturbed = finished(run_gang(long, 2, "ddp", out="undisturbed"))
    drawn = random.Random(11)  # noqa: S311 - of a test
    for _ in range(KILLS):
        whole = sorted((place.folder / "checkpoints").glob("*/step-*/manifest.json"))
        reached = json.loads(whole[-1].read_text())["position"]["step"] if whole else 0
        mischief = Mischief(rank=drawn.randrange(2), dies_after_step=reached + drawn.randint(1, 5))
        assert KILLED in {ending.code for ending in run_gang(long, 2, "ddp", mischief=mischief)}
    found = finished(run_gang(long, 2, "ddp"))
    assert (found["losses"], found["weights_digest"]) == (undisturbed["losses"], undisturbed["weights_digest"])


def test_sigterm_saves_and_asks_to_be_run_again(place: Place) -> None:
    """One member is asked; all finish the step, save, and end with the code that schedulers retry."""
    endings = run_gang(place, 2, "ddp", mischief=Mischief(rank=1, terminated_after_step=4))
    assert [ending.code for ending in endings] == [75, 75]
    assert "asked to end at step 5 of 10; the state is saved" in endings[0].message
    finished(run_gang(place, 2, "ddp"))
    assert steps_of(place) == list(range(1, 11))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(place: Place, damage: str) -> None:
    """Killed within step 7; of step 6 something is wrong, so it goes on from step 3."""
    run_gang(place, 2, "ddp", mischief=Mischief(dies_after_step=7, settles=True))
    file = shards(place)[1]
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        (file.parent / "manifest.json").write_bytes((file.parent / "manifest.json").read_bytes()[:-20])
    finished(run_gang(place, 2, "ddp"))
    assert steps_of(place) == [*range(1, 7), *range(4, 11)]


def test_two_checkpoints_are_kept_and_orphans_are_swept(place: Place) -> None:
    often = place.changed(checkpoint_every_steps=1)
    run_gang(often, 2, "ddp", mischief=Mischief(rank=1, dies_after_step=6))
    (run,) = (place.folder / "checkpoints").iterdir()
    whole = sorted(path.parent.name for path in run.glob("*/manifest.json"))
    assert len(whole) == 2
    (run / "step-00000001").mkdir()
    (run / "step-00000001" / "shard-00000-of-00002.safetensors").write_bytes(b"half")
    finished(run_gang(often, 2, "ddp"))
    assert list(run.glob("step-*/*")) == []
    assert list(run.glob("owner.json")) == []


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_samples(place: Place) -> None:
    endings = run_gang(place, 2, "zero2", mischief=Mischief(rank=1, poisons_step=5))
    assert [(ending.code, ending.error) for ending in endings] == [(1, "DivergedError")] * 2
    assert "step 5: the loss is nan on samples " in endings[0].message
    assert endings[0].message == endings[1].message
    (manifest,) = (place.folder / "checkpoints").glob("*/*/manifest.json")
    assert json.loads(manifest.read_text())["position"]["step"] == 3
    assert finished(run_gang(place, 2, "zero2"))["steps"] == 10


def test_the_second_run_of_one_name_takes_over_and_the_first_stops(place: Place) -> None:
    """Both are let live: the first notices before it would write beside the second."""

    def take_over(_: object) -> None:
        store = open_store((place.folder / "checkpoints").as_uri())
        while not list((place.folder / "checkpoints").glob("*/owner.json")):
            pass
        (owner,) = (place.folder / "checkpoints").glob("*/owner.json")
        store.put(owner.relative_to(place.folder / "checkpoints").as_posix(), b'{"token": "another"}')

    endings = run_gang(place, 2, "ddp", while_running=take_over)
    assert "SupersededError" in {ending.error for ending in endings}
    assert not list((place.folder / "checkpoints").glob("*/*/manifest.json"))


def test_a_disk_that_is_full_is_one_sentence(place: Place) -> None:
    """The kernel refuses to make one member's shard any longer."""
    endings = run_gang(place, 2, "ddp", mischief=Mischief(rank=1, largest_file_bytes=20_000))
    (ending,) = [ending for ending in endings if ending.error == "ArtifactError"]
    assert "the shard cannot be written" in ending.message
    assert "free space there or set TMPDIR" in ending.message
    assert finished(run_gang(place, 2, "ddp"))["steps"] == 10
