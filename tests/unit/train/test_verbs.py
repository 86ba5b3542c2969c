"""The verbs train, register and promote, through their own parsers."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from tests.unit.serving.live import free_port
from vilam3.artifacts import write_json
from vilam3.cli import promote, register, train
from vilam3.errors import CheckpointError, DataError, GateError, PreemptedError, RecipeError
from vilam3.objects import open_store
from vilam3.recipe import Recipe, load
from vilam3.train import news
from vilam3.train.expense import expense_of
from vilam3.train.ledger import attempts

PARSER = argparse.ArgumentParser()
VERBS = PARSER.add_subparsers()
for verb in (train, register, promote):
    verb.register(VERBS)


def vilam3(*words: str | Path) -> int:
    arguments = PARSER.parse_args([str(word) for word in words])
    code: int = arguments.run(arguments)
    return code


@pytest.fixture(scope="module")
def recipe_file(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test recipe as TOML."""
    path = tmp_path_factory.mktemp("recipes") / "test.toml"
    stage = recipe.stage("stage1_align")
    path.write_text(
        f"""
        name = "test"
        threads = 1
        [model]
        preset = "tiny"
        template = "llama_3"
        vocab_size = 400
        llm = {json.dumps(recipe.model.llm.model_dump(exclude_none=True)).replace(":", " =")}
        vision = {json.dumps(recipe.model.vision.model_dump(exclude_none=True)).replace(":", " =")}
        [stages.stage1_align]
        trainable = ["mm_projector"]
        learning_rate = {stage.learning_rate}
        steps = 2
        global_batch = 2
        micro_batch = 2
        checkpoint_every_steps = 5
        mixture = {{ captions = 1 }}
        """,
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def trained(recipe_file: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "stage1"
    words = ("--recipe", recipe_file, "--stage", "stage1_align", "--corpus", corpus, "--out", out)
    assert vilam3("train", *words, "--no-tracking", "--progress-file", out.parent / "progress.json") == 0
    return out


def test_training_prints_what_came_of_it(
    recipe_file: Path, corpus: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--recipe", recipe_file, "--stage", "stage1_align", "--corpus", corpus, "--out", trained)
    assert vilam3("train", *words, "--no-tracking") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["steps"], told["is_reused"], told["out"]) == ("stage1_align", 2, True, str(trained))
    assert json.loads((trained.parent / "progress.json").read_text())["step"] == 2


def test_a_dry_run_prints_the_composed_recipe(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.toml"
    more.write_text("seed = 5")
    assert vilam3("train", "--recipe", recipe_file, "--recipe", more, "--stage", "stage1_align", "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 5


def test_training_without_a_corpus_or_with_an_unknown_stage_is_refused(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="--corpus and --out are required"):
        vilam3("train", "--recipe", recipe_file, "--stage", "stage1_align")
    with pytest.raises(RecipeError, match="no stage 'stage9'"):
        vilam3("train", "--recipe", recipe_file, "--stage", "stage9")


def test_a_checkpoint_is_registered_and_not_promoted_without_a_decision(
    recipe_file: Path,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = ("--recipe", recipe_file, "--runs", tmp_path)
    assert vilam3("register", *store, "--checkpoint", trained) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["version"], told["aliases"]) == ("vila-m3", 1, ["challenger"])
    assert told["source"] == trained.as_uri()
    gate = tmp_path / "gate.json"
    with pytest.raises(GateError, match="no gate decision"):
        vilam3("promote", *store, "--alias", "challenger", "--gate", gate)
    write_json(gate, {"passed": True, "reasons": [], "numbers": {"accuracy_with_experts": 1.0}})
    with pytest.raises(GateError, match="registered without an evaluation"):
        vilam3("promote", *store, "--version", "1", "--gate", gate)


def test_only_a_finished_stage_is_registered(recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stage\.json: cannot be read"):
        vilam3("register", "--recipe", recipe_file, "--runs", tmp_path, "--checkpoint", tmp_path)


@pytest.mark.parametrize("verb", ["train", "register", "promote"])
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        vilam3(verb, "--help")
    assert f"example: vilam3 {verb} --recipe" in capsys.readouterr().out


def test_training_leaves_its_news_where_it_is_told(recipe_file: Path, corpus: Path, tmp_path: Path) -> None:
    """By a resolved recipe, as a launched job has it."""
    out, place = tmp_path / "stage1", f"{tmp_path.as_uri()}/launched/job.json"
    words = ("--resolved-recipe", load([recipe_file]).resolved_json(), "--stage", "stage1_align", "--corpus", corpus)
    assert vilam3("train", *words, "--out", out, "--no-tracking", "--news", place) == 0
    told = news.heard(place)
    assert told is not None
    assert (told.step, told.steps, told.model, told.kind) == (2, 2, out.as_uri(), "")


def test_a_process_of_a_job_tells_where_its_time_went_though_it_fails(
    recipe_file: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of those that Kubeflow Trainer starts; who watches the job then knows what it has cost."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**alone, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    damaged = shutil.copytree(corpus, tmp_path / "corpus")
    for picture in (damaged / "images").iterdir():
        picture.write_bytes(b"no picture")
    place = f"{tmp_path.as_uri()}/launched/job.json"
    words: list[str | Path] = ["--recipe", recipe_file, "--stage", "stage1_align", "--corpus", damaged, "--no-tracking"]
    words += ["--out", tmp_path / "stage1", "--launcher", "torchrun", "--news", place]
    with pytest.raises(DataError):
        vilam3("train", *words, "--checkpoints", (tmp_path / "checkpoints").as_uri())
    told = news.heard(place)
    assert told is not None
    assert told.kind == "DataError"
    store, _, name = told.ledger.rpartition("/")
    found = expense_of(attempts(open_store(store), name), price=None)
    assert found.held_s > 0


def test_training_that_nobody_watches_saves_its_state_and_ends(
    recipe_file: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "EVERY_S", 0.2)
    recipe = json.loads(load([recipe_file]).resolved_json())
    recipe["stages"]["stage1_align"]["steps"] = 100_000
    out, place = tmp_path / "stage1", f"{tmp_path.as_uri()}/launched/job.json"
    words = ("--resolved-recipe", json.dumps(recipe), "--stage", "stage1_align", "--corpus", corpus, "--out", out)
    with pytest.raises(PreemptedError, match="the state is saved"):
        vilam3("train", *words, "--no-tracking", "--news", place, "--unwatched-s", "10")
    told = news.heard(place)
    assert told is not None
    assert told.kind == "PreemptedError"
    assert 0 < told.step < told.steps == 100_000
