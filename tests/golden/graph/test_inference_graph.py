"""Generating the InferenceGraph gives what is kept, to the byte."""

from pathlib import Path

from vilam3.cli.main import main

KEPT = Path(__file__).parent / "two-rounds.json"


def test_the_graph_of_a_release_is_what_is_kept(tmp_path: Path) -> None:
    """Where this is on purpose: the command below with the kept file as --out."""
    assert main(["graph", "--rounds", "2", "--namespace", "medical", "--out", str(tmp_path / "graph.json")]) == 0
    assert (tmp_path / "graph.json").read_text("utf-8") == KEPT.read_text("utf-8")
