"""Checkpoints by name, with one member: what is kept, what counts, and what another strategy's would find."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from vilam3.errors import ArtifactError, OutOfReachError, SupersededError
from vilam3.objects import FolderStore, ObjectStore
from vilam3.recipe import Recipe
from vilam3.train import sharded
from vilam3.train.peers import Peers
from vilam3.train.replicated import Replicated
from vilam3.train.sharded import Checkpoints, patiently
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.state import Position
from vilam3.train.step import freeze
from vilam3.train.strategy import KINDS

STAGE = "stage1_align"


def strategy_of(recipe: Recipe, corpus: Path) -> Replicated:
    """Fresh, before its first step."""
    stage = recipe.stage(STAGE)
    model = starting_network(recipe, stage=STAGE, corpus=corpus, base=None).model.train()
    freeze(model, trainable=stage.trainable)
    return Replicated(model, recipe, stage, peers=Peers())


@pytest.fixture(scope="module")
def moved(recipe: Recipe, corpus: Path) -> Replicated:
    """After one step."""
    strategy = strategy_of(recipe, corpus)
    loaded = starting_network(recipe, stage=STAGE, corpus=corpus, base=None)
    batches = make_feed(recipe, stage=STAGE, corpus=corpus, loaded=loaded).batches(0, global_batch=4, micro_batch=2)
    strategy.add_gradients(batches, num_targets=sum(batch.num_targets for batch in batches))
    strategy.move(learning_rate=1e-3)
    return strategy


def checkpoints(store: ObjectStore) -> Checkpoints:
    return Checkpoints(store, run="run", inputs_digest="inputs", peers=Peers())


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def test_what_was_saved_comes_back_to_the_bit(
    store: FolderStore, moved: Replicated, recipe: Recipe, corpus: Path
) -> None:
    saving = checkpoints(store)
    saving.save(moved, Position(step=1, losses=(5.5,), seconds=2.0))
    saving.settle()
    fresh = strategy_of(recipe, corpus)
    assert checkpoints(store).resume(fresh) == Position(step=1, losses=(5.5,), seconds=2.0)
    for name in moved.shapes:
        for kind in KINDS:
            assert torch.equal(fresh.full(name, kind), moved.full(name, kind)), (name, kind)
    assert float(fresh.full(next(iter(fresh.shapes)), "step")) == 1.0


def test_what_changes_after_saving_is_not_in_the_checkpoint(store: FolderStore, moved: Replicated) -> None:
    """It is copied before training goes on, and written afterwards."""
    name = next(iter(moved.shapes))
    before = moved.full(name, "weight").clone()
    saving = checkpoints(store)
    saving.save(moved, Position(step=1, losses=(5.5,)))
    moved.put(name, "weight", before + 1)
    saving.settle()
    checkpoints(store).resume(moved)
    assert torch.equal(moved.full(name, "weight"), before)


def test_a_checkpoint_counts_after_what_is_written_first_and_nobody_waits_for_it(
    store: FolderStore, moved: Replicated, tmp_path: Path
) -> None:
    """As a model that is kept beside it; training goes on meanwhile."""
    written, saving = threading.Event(), checkpoints(store)
    saving.save(moved, Position(step=1, losses=(5.5,)), first=written.wait)
    assert not saving.is_settled()
    assert not list(tmp_path.rglob("manifest.json"))
    written.set()
    assert saving.settle() == Position(step=1, losses=(5.5,))
    assert saving.is_settled()
    assert saving.settle() is None
    assert list(tmp_path.rglob("manifest.json"))


def test_without_what_was_to_be_written_first_there_is_no_checkpoint(
    store: FolderStore, moved: Replicated, tmp_path: Path
) -> None:
    def full() -> None:
        raise ArtifactError("disk full")

    saving = checkpoints(store)
    saving.save(moved, Position(step=1, losses=(5.5,)), first=full)
    with pytest.raises(ArtifactError, match="disk full"):
        saving.settle()
    assert not list(tmp_path.rglob("manifest.json"))


def test_two_are_kept_and_all_are_removed_in_the_end(store: FolderStore, moved: Replicated, tmp_path: Path) -> None:
    saving = checkpoints(store)
    for step in (1, 2, 3):
        saving.save(moved, Position(step=step, losses=(5.5,) * step))
    saving.settle()
    assert sorted(path.name for path in (tmp_path / "run").glob("step-*")) == ["step-00000002", "step-00000003"]
    saving.clear()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_good_ones_are_there_at_every_moment_once_they_were_written(
    moved: Replicated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at after every write and every removal."""
    seen: list[int] = []

    def watched(name: str) -> None:
        action = getattr(FolderStore, name)

        def act(self: FolderStore, *told: str | bytes | Path) -> None:
            action(self, *told)
            seen.append(len(list(tmp_path.rglob("manifest.json"))))

        monkeypatch.setattr(FolderStore, name, act)

    watched("put")
    watched("delete")
    saving = checkpoints(FolderStore(tmp_path))
    for step in range(1, 7):
        saving.save(moved, Position(step=step, losses=(5.5,) * step))
    saving.settle()
    assert min(seen[seen.index(2) :]) == 2
    assert max(seen) == 3


def test_without_its_manifest_nothing_counts_and_the_next_start_sweeps_it(
    store: FolderStore, moved: Replicated, tmp_path: Path
) -> None:
    saving = checkpoints(store)
    for step in (1, 2):
        saving.save(moved, Position(step=step, losses=(5.5,) * step))
    saving.settle()
    (tmp_path / "run" / "step-00000002" / "manifest.json").unlink()
    assert checkpoints(store).resume(moved).step == 1
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-00000001"]


def test_of_other_inputs_nothing_counts(store: FolderStore, moved: Replicated) -> None:
    saving = checkpoints(store)
    saving.save(moved, Position(step=1, losses=(5.5,)))
    saving.settle()
    other = Checkpoints(store, run="run", inputs_digest="others", peers=Peers())
    assert other.resume(moved) == Position()


def test_who_was_superseded_writes_no_manifest(store: FolderStore, moved: Replicated, tmp_path: Path) -> None:
    first, second = checkpoints(store), checkpoints(store)
    first.save(moved, Position(step=1, losses=(5.5,)))
    with pytest.raises(SupersededError, match="another process writes its checkpoints now; this one ends at step 1"):
        first.settle()
    assert not list(tmp_path.rglob("manifest.json"))
    second.save(moved, Position(step=1, losses=(5.5,)))
    second.settle()
    assert json.loads((tmp_path / "run" / "step-00000001" / "manifest.json").read_text())["position"]["step"] == 1


def test_a_store_out_of_reach_is_asked_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    calls = []

    def third_time() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise OutOfReachError("store: out of reach")
        return "there"

    assert patiently(third_time) == "there"
    monkeypatch.setattr(sharded, "PATIENCE_S", -1.0)
    calls.clear()
    with pytest.raises(OutOfReachError):
        patiently(third_time)
    assert len(calls) == 1


def test_a_refusal_is_not_asked_again() -> None:
    calls = []

    def refused() -> None:
        calls.append(1)
        raise ArtifactError("store: refused")

    with pytest.raises(ArtifactError):
        patiently(refused)
    assert len(calls) == 1
