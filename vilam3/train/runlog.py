"""One stage's run in a tracking store, or nothing where there is none; saying a thing twice does no harm."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vilam3.recipe import Recipe
from vilam3.train.record import Checkpoint, Tracker, digest_of, final_loss, weights_digest
from vilam3.train.validation import Validated


class RunLog:
    """Tells a tracker, if there is one, how the stage goes."""

    def __init__(
        self, tracker: Tracker | None, recipe: Recipe, *, stage: str, inputs: Mapping[str, str], steps: int
    ) -> None:
        """Begin the run of these inputs, or take it up."""
        self._tracker = tracker
        self._name = f"{recipe.name}-{stage}"
        self._inputs_digest = digest_of(inputs)
        self._tags = {
            "stage": stage,
            "recipe": recipe.name,
            "recipe_digest": recipe.digest,
            "inputs_digest": self._inputs_digest,
            "dataset_digest": inputs["corpus"],
            "base_digest": inputs["base"],
        }
        settings = recipe.stage(stage)
        params = {
            **self._tags,
            "learning_rate": str(settings.learning_rate),
            "global_batch": str(settings.global_batch),
            "steps": str(steps),
            "trainable": ",".join(settings.trainable),
        }
        self._run_id = "" if tracker is None else tracker.begin_run(self._name, key=self._inputs_digest, params=params)

    def log_losses(self, losses: Sequence[float]) -> None:
        """Every step's loss so far."""
        if self._tracker is not None:
            self._tracker.log_series(self._run_id, losses)

    def log_model(self, place: Path, *, at: str, losses: Sequence[float], validated: Sequence[Validated] = ()) -> None:
        """A saved model, which will be found `at` that URI when the stage is finished."""
        if self._tracker is None:
            return
        here = [one.loss for one in validated if one.step == len(losses)]
        measured = {"validation_loss": here[-1]} if here else {}
        checkpoint = Checkpoint(
            name=f"{self._name}-{len(losses)}",
            step=len(losses),
            source=at,
            digest=weights_digest(place),
            tags=self._tags,
            metrics={"loss": final_loss(losses), **measured},
        )
        self._tracker.log_checkpoint(self._run_id, checkpoint)

    def log_numbers(self, numbers: Mapping[str, float], *, step: int = 0) -> None:
        """Single numbers of the run."""
        if self._tracker is not None:
            self._tracker.log_numbers(self._run_id, numbers, step=step)

    def finish(self, *, succeeded: bool, numbers: Mapping[str, float] | None = None) -> None:
        """Close the run, with what is known of it only now."""
        if self._tracker is not None:
            self.log_numbers(numbers or {})
            self._tracker.finish_run(self._run_id, succeeded=succeeded)


def open_tracker(recipe: Recipe, runs: Path | None) -> Tracker | None:
    """The tracking store that the environment names, or a file in `runs`; None where nothing is to be logged."""
    if runs is None:
        return None
    from vilam3.tracking import connect  # noqa: PLC0415 - mlflow takes seconds to import

    names = recipe.tracking
    return connect(experiment=names.experiment, registered_model=names.registered_model, runs=runs)
