"""What a launcher hands to every member of a gang, and what it hears back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from vilam3.train.strategy import StrategyName


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One stage to be trained by a gang.

    Attributes:
        recipe: Resolved, as `Recipe.resolved_json` gives it.
        stage: Which of its stages.
        corpus: A prepared corpus: a path that every member sees, or ``s3://``.
        base: Checkpoint of the stage before, likewise; empty where stage 1 starts from nothing.
        out: Where the leader puts the finished stage.
        strategy: How the model is divided.
        checkpoints: ``file:///folder`` or ``s3://bucket/prefix`` that every member reaches.
        runs: Folder of the tracking store where it is a file; None logs nothing.
        holder: Names what holds the machines while members come and go, see `vilam3.train.ledger.Attempt`.
        began_s: Wall clock from which on it holds them; 0: from when the leader begins.
        only_preflight: Look at the machines and train nothing.
    """

    recipe: str
    stage: str
    corpus: str
    base: str
    out: Path
    strategy: StrategyName
    checkpoints: str
    runs: Path | None
    holder: str = ""
    began_s: float = 0.0
    only_preflight: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the journey to another process."""
        return {
            "recipe": self.recipe,
            "stage": self.stage,
            "corpus": self.corpus,
            "base": self.base,
            "out": str(self.out),
            "strategy": self.strategy,
            "checkpoints": self.checkpoints,
            "runs": None if self.runs is None else str(self.runs),
            "holder": self.holder,
            "began_s": self.began_s,
            "only_preflight": self.only_preflight,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Order":
        """At the other end."""
        runs = values["runs"]
        return cls(
            recipe=values["recipe"],
            stage=values["stage"],
            corpus=values["corpus"],
            base=values["base"],
            out=Path(values["out"]),
            strategy=cast("StrategyName", values["strategy"]),
            checkpoints=values["checkpoints"],
            runs=None if runs is None else Path(runs),
            holder=str(values["holder"]),
            began_s=float(values["began_s"]),
            only_preflight=bool(values["only_preflight"]),
        )


class Control(Protocol):
    """Between a member and whoever launched it."""

    def report(self, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """Tell how far training is; only the leader does."""
        ...

    def should_stop(self) -> bool:
        """Whether this member was asked to end."""
        ...
