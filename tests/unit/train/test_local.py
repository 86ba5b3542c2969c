"""The local launcher: what it trains, that it resumes exactly, and when it takes over a finished stage."""

import errno
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from vilam3.errors import ArtifactError, CheckpointError, DataError, PreemptedError, RecipeError
from vilam3.model import checkpoint
from vilam3.recipe import Recipe
from vilam3.train import local, state
from vilam3.train.record import Checkpoint, StageResult, read_stage, weights_digest

GOLDEN = Path(__file__).parents[2] / "golden" / "losses"
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the children run one thread only


@pytest.fixture(scope="module")
def aligned(recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage 1."""
    out = tmp_path_factory.mktemp("runs") / "stage1"
    local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out)
    return out


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, corpus: Path, aligned: Path) -> StageResult:
    """Stage 4 trained in one go."""
    return local.run(recipe, stage="stage4_expert", corpus=corpus, base=aligned, out=aligned.parent / "stage4")


@dataclass
class Notes:
    """A tracker that remembers what it was told."""

    losses: list[float] = field(default_factory=list)
    models: dict[str, Checkpoint] = field(default_factory=dict)
    endings: list[bool] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    def begin_run(self, name: str, *, key: str, params: Mapping[str, str] | None = None) -> str:
        """Names the run by its key."""
        assert name
        assert params
        return key

    def log_series(self, run_id: str, values: Sequence[float], *, name: str = "loss") -> None:
        """Keeps the newest series."""
        assert run_id
        assert name == "loss"
        self.losses = list(values)

    def log_checkpoint(self, run_id: str, checkpoint: Checkpoint) -> str:
        """Keeps one checkpoint per digest."""
        assert run_id
        self.models[checkpoint.digest] = checkpoint
        return checkpoint.digest

    def log_numbers(self, run_id: str, numbers: Mapping[str, float], *, step: int = 0) -> None:
        """Keeps the newest of each name."""
        assert run_id
        assert step >= 0
        self.numbers |= numbers

    def finish_run(self, run_id: str, *, succeeded: bool) -> None:
        """Keeps how it ended."""
        assert run_id
        self.endings.append(succeeded)


def with_stage(recipe: Recipe, name: str, **changes: object) -> Recipe:
    table = recipe.model_dump()
    table["stages"][name] |= changes
    return Recipe.model_validate(table)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(path).model.state_dict())


def test_a_finished_stage_is_a_whole_checkpoint_with_its_record(undisturbed: StageResult, aligned: Path) -> None:
    out = aligned.parent / "stage4"
    assert {path.name for path in out.iterdir()} == {
        "checkpoints", "config.json", "digests.json", "llm", "mm_projector", "stage.json", "vision_tower"
    }  # fmt: skip
    assert read_stage(out) == undisturbed
    assert undisturbed.weights_digest == weights_digest(out)
    assert (undisturbed.steps, undisturbed.samples, len(undisturbed.losses)) == (8, 32, 8)
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["step-00000003", "step-00000006"]
    assert not list(out.parent.glob(".*.work"))


def test_only_the_named_parts_learn(recipe: Recipe, corpus: Path, aligned: Path, tmp_path: Path) -> None:
    local.run(recipe, stage="stage2_pretrain", corpus=corpus, base=aligned, out=tmp_path / "stage2")
    before, after = weights(aligned), weights(tmp_path / "stage2")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"mm_projector", "llm"}


def test_the_loss_falls(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    longer = with_stage(recipe, "stage1_align", steps=30, trainable=["mm_projector", "llm"])
    result = local.run(longer, stage="stage1_align", corpus=corpus, base=None, out=tmp_path / "out")
    assert result.final_loss < result.losses[0] - 0.5


def test_the_same_inputs_are_taken_over_at_once(
    recipe: Recipe, corpus: Path, aligned: Path, undisturbed: StageResult
) -> None:
    again = local.run(recipe, stage="stage4_expert", corpus=corpus, base=aligned, out=aligned.parent / "stage4")
    assert again.is_reused
    assert again.weights_digest == undisturbed.weights_digest


def test_other_inputs_are_trained_again_and_said(
    recipe: Recipe, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    first = local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out)
    changed = with_stage(recipe, "stage1_align", learning_rate=1e-3)
    with caplog.at_level(logging.WARNING):
        second = local.run(changed, stage="stage1_align", corpus=corpus, base=None, out=out)
    assert "recipe changed since it was finished" in caplog.text
    assert not second.is_reused
    assert second.weights_digest != first.weights_digest
    assert read_stage(out) == second


def test_settings_that_do_not_touch_the_weights_do_not_train_again(recipe: Recipe, corpus: Path, aligned: Path) -> None:
    table = recipe.model_dump() | {"gate": {"min_accuracy": 0.5}, "name": "renamed"}
    again = local.run(Recipe.model_validate(table), stage="stage1_align", corpus=corpus, base=None, out=aligned)
    assert again.is_reused


def test_a_damaged_finished_stage_is_trained_again(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out)
    file = out / "mm_projector" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out)
    assert not again.is_reused
    assert again.weights_digest == first.weights_digest


def die_at_call(number: int) -> None:
    """Kill this process without warning at its `number`-th flush, rename or exchange of a file."""
    calls = 0

    def counting(original: Any) -> Any:  # noqa: ANN401 - stands in for any function
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    os.fsync = counting(os.fsync)
    Path.rename = counting(Path.rename)  # type: ignore[method-assign]  # this process is about to die
    os.link = counting(os.link)


def stage_4(recipe: Recipe, corpus: Path, base: Path, out: Path, die_at: int) -> None:
    torch.set_num_threads(1)
    if die_at:
        die_at_call(die_at)
    local.run(recipe, stage="stage4_expert", corpus=corpus, base=base, out=out)


def run_in_child(
    recipe: Recipe, corpus: Path, base: Path, out: Path, *, die_at: int = 0, kill_after_s: float = 60
) -> int:
    child = FORK.Process(target=stage_4, args=(recipe, corpus, base, out, die_at))
    child.start()
    child.join(kill_after_s)
    if child.is_alive():
        child.kill()
        child.join()
    assert child.exitcode is not None
    return child.exitcode


def test_killed_at_write_points_it_ends_bit_identical(
    recipe: Recipe, corpus: Path, aligned: Path, undisturbed: StageResult, tmp_path: Path
) -> None:
    """Every process dies a few flushes further than the one before, until one gets through."""
    out = tmp_path / "stage4"
    codes = []
    for die_at in range(2, 200, 9):
        codes.append(run_in_child(recipe, corpus, aligned, out, die_at=die_at))
        if codes[-1] == 0:
            break
        assert not (out / "stage.json").exists() or read_stage(out).losses == undisturbed.losses
    assert codes[-1] == 0
    assert len(codes) > 3
    assert set(codes[:-1]) == {-signal.SIGKILL}
    found = read_stage(out)
    assert (found.losses, found.weights_digest) == (undisturbed.losses, undisturbed.weights_digest)
    assert not list(tmp_path.glob(".*.work"))


def test_killed_at_any_time_it_ends_bit_identical(
    recipe: Recipe, corpus: Path, aligned: Path, undisturbed: StageResult, tmp_path: Path
) -> None:
    out = tmp_path / "stage4"
    started = time.monotonic()
    run_in_child(recipe, corpus, aligned, tmp_path / "timing")
    whole_s = time.monotonic() - started
    for share in (0.35, 0.55, 0.75, 0.9):
        run_in_child(recipe, corpus, aligned, out, kill_after_s=share * whole_s)
    assert run_in_child(recipe, corpus, aligned, out) == 0
    assert read_stage(out).weights_digest == undisturbed.weights_digest


def test_sigterm_saves_and_asks_to_be_run_again(
    recipe: Recipe, corpus: Path, aligned: Path, undisturbed: StageResult, tmp_path: Path
) -> None:
    out = tmp_path / "stage4"
    notes = Notes()

    def terminate_at_step_5(step: int, steps: int, loss: float, seconds_left: float) -> None:
        assert loss > 0
        assert seconds_left >= 0
        if step == 5 and steps == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError, match="at step 5 of 8; the state is saved") as caught:
        local.run(
            recipe,
            stage="stage4_expert",
            corpus=corpus,
            base=aligned,
            out=out,
            tracking=notes,
            on_progress=terminate_at_step_5,
        )
    assert caught.value.exit_code == 75
    assert not out.exists()
    steps: list[int] = []
    again = local.run(
        recipe,
        stage="stage4_expert",
        corpus=corpus,
        base=aligned,
        out=out,
        tracking=notes,
        on_progress=lambda step, *_: steps.append(step),
    )
    assert steps == [6, 7, 8]
    assert again.weights_digest == undisturbed.weights_digest
    assert notes.losses == list(undisturbed.losses)
    assert sorted(model.step for model in notes.models.values()) == [3, 6, 8]
    assert notes.endings == [True]
    for model in notes.models.values():
        assert weights_digest(Path(model.source.removeprefix("file://"))) == model.digest


def test_a_failed_stage_is_told_as_failed(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    notes = Notes()

    def fail(step: int, *_: object) -> None:
        raise RuntimeError(step)

    with pytest.raises(RuntimeError):
        local.run(
            recipe,
            stage="stage1_align",
            corpus=corpus,
            base=None,
            out=tmp_path / "out",
            tracking=notes,
            on_progress=fail,
        )
    assert notes.endings == [False]
    assert not (tmp_path / "out").exists()


def test_a_stage_that_needs_a_base_says_so(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="stage2_pretrain: needs a checkpoint to start from"):
        local.run(recipe, stage="stage2_pretrain", corpus=corpus, base=None, out=tmp_path / "out")
    with pytest.raises(CheckpointError, match="no such directory"):
        local.run(recipe, stage="stage2_pretrain", corpus=corpus, base=tmp_path / "absent", out=tmp_path / "out")


def test_a_dataset_that_is_not_there_is_named(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    changed = with_stage(recipe, "stage1_align", mixture={"reports": 1})
    with pytest.raises(
        DataError, match=r"mixture\.reports: .* the corpus has the datasets captions, expert, text, vqa"
    ):
        local.run(changed, stage="stage1_align", corpus=corpus, base=None, out=tmp_path / "out")
    with pytest.raises(DataError, match=r"corpus\.json: cannot be read"):
        local.run(recipe, stage="stage1_align", corpus=tmp_path, base=None, out=tmp_path / "out")


def test_ten_steps_lose_what_they_always_lost(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    """Rounded to four decimals, so that another CPU's rounding does not matter and another formula does."""
    changed = with_stage(recipe, "stage1_align", steps=10, trainable=["vision_tower", "mm_projector", "llm"])
    result = local.run(changed, stage="stage1_align", corpus=corpus, base=None, out=tmp_path / "out")
    found = json.dumps([round(loss, 4) for loss in result.losses])
    assert found == (GOLDEN / "ten_steps.json").read_text(encoding="utf-8").strip()


def test_the_newest_two_states_are_kept_and_a_damaged_one_is_passed_over(
    recipe: Recipe, corpus: Path, aligned: Path, undisturbed: StageResult, tmp_path: Path
) -> None:
    out = tmp_path / "stage4"

    def stop(step: int, *_: object) -> None:
        if step == 7:
            raise RuntimeError(step)

    with pytest.raises(RuntimeError):
        local.run(recipe, stage="stage4_expert", corpus=corpus, base=aligned, out=out, on_progress=stop)
    (work,) = tmp_path.glob(".*.work")
    places = sorted(work.glob("step-*"))
    assert [place.name for place in places] == ["step-00000003", "step-00000006"]
    with (places[1] / state.STATE).open("r+b") as handle:
        handle.truncate(100)
    (work / ".step-00000006.abc.tmp").mkdir()
    steps: list[int] = []
    again = local.run(
        recipe,
        stage="stage4_expert",
        corpus=corpus,
        base=aligned,
        out=out,
        on_progress=lambda step, *_: steps.append(step),
    )
    assert steps == [4, 5, 6, 7, 8]
    assert again.weights_digest == undisturbed.weights_digest


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path, __: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactError, match="No space left on device; nothing was written; free space"):
        local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out)
    (work,) = tmp_path.iterdir()
    assert work.name.endswith(".work")
    assert [path for path in work.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out).steps == 8
