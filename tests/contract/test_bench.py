"""What `make bench` promises: every area can be run by name, and a record says where its numbers come from."""

import ast
import json
import random
from pathlib import Path

import pytest

from bench import demo
from bench.__main__ import areas, main
from bench.record import RESULTS, Figure, write
from bench.training import corpus
from vilam3.errors import NotFoundError
from vilam3.recipe import load

RECIPES = RESULTS.parents[1] / "pipelines" / "recipes"


def test_every_area_can_be_run() -> None:
    """Read, not imported: what is measured may be heavy."""
    assert {"demo", "startup"} <= set(areas())
    for area in areas():
        tree = ast.parse((RESULTS.parent / f"{area}.py").read_text("utf-8"))
        assert "run" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, area


def test_every_part_of_an_area_has_figures() -> None:
    parts = [path for area in areas() for path in RESULTS.parent.glob(f"{area}_*.py")]
    assert parts
    for path in parts:
        tree = ast.parse(path.read_text("utf-8"))
        assert "figures" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, path.stem


def test_a_record_says_machine_commit_and_command(tmp_path: Path) -> None:
    figures = [Figure(name="load", value=3.0, unit="s", baseline=2.0), Figure(name="peak", value=1.0, unit="MB")]
    returned = write("load", figures, command="make bench AREAS=load", root=tmp_path)
    kept = json.loads((tmp_path / "load.json").read_text())
    assert kept == returned
    assert (kept["area"], kept["command"]) == ("load", "make bench AREAS=load")
    assert kept["commit"]
    assert kept["machine"]["cores"] >= 1
    assert [(figure["name"], figure["baseline"], figure["ratio"]) for figure in kept["figures"]] == [
        ("load", 2.0, 1.5),
        ("peak", None, None),
    ]


def test_an_unknown_area_is_the_callers_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "there are" in capsys.readouterr().err


def test_demo_times_need_a_demo(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="run make demo first"):
        demo.run(tmp_path / "summary.json")


def test_what_is_kept_is_of_an_area_and_whole() -> None:
    for kept in sorted(RESULTS.glob("*.json")):
        record = json.loads(kept.read_text())
        assert record["area"] == kept.stem
        assert kept.stem in areas()
        assert {"commit", "machine", "command", "figures"} <= record.keys()
        assert all({"name", "value", "unit", "baseline", "ratio"} == figure.keys() for figure in record["figures"])


@pytest.mark.parametrize("size", ["3b", "8b", "13b", "40b", "nvila-8b"])
def test_the_published_recipes_plan_with_the_lengths_of_the_measured_corpus(size: str) -> None:
    """Both the benchmark and the plan rest on the same lengths; those of the corpus are the ones that are stated."""
    stage = load([RECIPES / f"vila-m3-{size}.toml"]).stage("stage4_expert")
    draw = random.Random(3)  # noqa: S311 - lengths, not secrets
    vocabulary = ("word",)
    words = corpus.Words(draw=draw, vocabulary=vocabulary, cards="word " * corpus.CARDS_WORDS)
    tokens, images = 0.0, 0.0
    for name, share in corpus.BALANCED.items():
        texts = [" ".join(corpus._texts(name, words)) for _ in range(1000)]
        num_images = sum(text.count(corpus.IMAGE) for text in texts)
        num_words = sum(len(text.replace(corpus.IMAGE, " ").replace(",", " ").split()) for text in texts)
        images += share * num_images / 1000
        tokens += share * num_words / 1000
    total = sum(corpus.BALANCED.values())
    assert stage.mean_text_tokens == pytest.approx(tokens / total, rel=0.02)
    assert stage.mean_images == pytest.approx(images / total, rel=0.02)
    assert stage.samples_per_epoch() == pytest.approx(1000 * total, rel=1e-6)
