"""How a stage is launched: what is refused, what follows from the recipe, and that nothing is loaded unused."""

import subprocess
import sys
from pathlib import Path

import pytest

from vilam3.errors import RecipeError
from vilam3.recipe import Recipe
from vilam3.train import torchrun
from vilam3.train.launch import Launch, from_texts
from vilam3.train.order import Order
from vilam3.train.strategy import default_strategy


@pytest.mark.parametrize("flag", ["workers", "strategy", "checkpoints"])
def test_what_one_process_has_no_use_for_is_refused(flag: str) -> None:
    value = {"workers": 2, "strategy": "zero2", "checkpoints": "s3://bucket"}[flag]
    with pytest.raises(RecipeError, match=f"--{flag}={value} has no effect with --launcher local"):
        Launch(**{flag: value})  # type: ignore[arg-type]  # each of its own type


def test_a_gang_has_members() -> None:
    with pytest.raises(RecipeError, match="--workers=0: must be at least 1"):
        Launch(launcher="ray", workers=0)


def test_texts_of_a_pipeline_become_a_launch() -> None:
    texts = {"launcher": "ray", "workers": "4", "strategy": "", "checkpoints": "s3://bucket/prefix"}
    assert from_texts(texts, runs=Path("runs")) == Launch(
        launcher="ray", workers=4, checkpoints="s3://bucket/prefix", runs=Path("runs")
    )
    assert from_texts(dict.fromkeys(texts, ""), runs=None) == Launch()
    for name, value, said in (
        ("launcher", "slurm", "use one of local, torchrun, ray"),
        ("strategy", "zero4", "use one of ddp, zero1"),
        ("workers", "two", "not a number"),
    ):
        with pytest.raises(RecipeError, match=said):
            from_texts({"launcher": "ray", name: value}, runs=None)


def test_the_zero_stage_of_a_recipe_is_its_strategy(recipe: Recipe) -> None:
    stage = recipe.stage("stage4_expert")
    names = [default_strategy(stage.model_copy(update={"zero_stage": level})) for level in range(4)]
    assert names == ["ddp", "zero1", "zero2", "zero3"]


def test_an_order_survives_its_journey() -> None:
    order = Order(
        recipe="{}",
        stage="stage1_align",
        corpus="s3://bucket/corpus",
        base="",
        out=Path("/runs/out"),
        strategy="zero3",
        checkpoints="s3://bucket/checkpoints",
        runs=None,
    )
    assert Order.from_json(order.to_json()) == order


def test_a_process_that_torchrun_did_not_start_says_so(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    monkeypatch.delenv("RANK", raising=False)
    order = Order(
        recipe=recipe.resolved_json(),
        stage="stage1_align",
        corpus="corpus",
        base="",
        out=Path("out"),
        strategy="ddp",
        checkpoints="file:///checkpoints",
        runs=None,
    )
    with pytest.raises(RecipeError, match="RANK is not set; start it as torchrun"):
        torchrun.run(order)


@pytest.mark.timeout(900)
def test_one_process_loads_neither_ray_nor_deepspeed() -> None:
    program = (
        "import sys, vilam3.train.launch, vilam3.train.gang; print({'ray', 'deepspeed', 'mlflow'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert said.stdout.strip() == "set()"
