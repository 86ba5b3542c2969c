"""Models kept beside the final one: written by the leader, told to the tracking store, copied to a run's place in S3.

In S3 they are what the tracking store points to, so that no weights ever pass through it; the folder of the finished
stage holds them too, for the evaluation that chooses among them.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from vilam3.artifacts import whole_directory
from vilam3.errors import NotFoundError
from vilam3.model import checkpoint
from vilam3.model.checkpoint import Loaded
from vilam3.objects import ObjectStore
from vilam3.train.record import FINAL, MODELS, STAGE_FILE
from vilam3.train.runlog import RunLog
from vilam3.train.sharded import patiently
from vilam3.train.stage import link
from vilam3.train.state import Position
from vilam3.train.validation import best_of

log = logging.getLogger(__name__)


def take_over(out: Path, *, store: ObjectStore, run: str) -> bool:
    """Bring the finished stage of a run in S3, with the models kept beside it, to `out`; False where there is none.

    A finished stage may be somebody's champion: it is brought, and never trained or written again.
    """
    try:
        patiently(lambda: store.get(f"{run}/{FINAL}/{STAGE_FILE}"))
    except NotFoundError:
        return False
    with whole_directory(out) as partial:
        for folder, place in ((f"{run}/{FINAL}", partial), (f"{run}/{MODELS}", partial / MODELS)):
            for entry in store.entries(folder):
                path = place / entry.key.removeprefix(f"{folder}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                patiently(lambda entry=entry, path=path: store.save(entry.key, path))  # type: ignore[misc]  # of this turn
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Of one run in S3."""

    store: ObjectStore
    run: str
    uri: str


class KeptModels:
    """The newest `count` models of a stage; of the members of a gang only the leader writes any."""

    def __init__(
        self, work: Path, *, out: Path, count: int, store: ObjectStore | None = None, run: str = "", at: str = ""
    ) -> None:
        """Work in `work` until they go to `out`; with a store, also to `run` in it, whose URI is `at`."""
        self.work = work
        self._out = out
        self._count = count
        self._s3 = _Place(store=store, run=run, uri=at) if store is not None else None

    def save(self, loaded: Loaded, step: int) -> None:
        """Keep the model of this step."""
        place = self.work / MODELS / _name(step)
        checkpoint.save(loaded, place)
        self._upload(place, f"{MODELS}/{place.name}")

    def tell(self, diary: RunLog, position: Position) -> None:
        """Log losses and models up to `position`; saying it again after a resume does no harm.

        The oldest are dropped, but for the best on held-out samples.
        """
        diary.log_losses(position.losses)
        places = self._places()
        for place in places:
            step = int(place.name.removeprefix("step-"))
            if step <= position.step:
                at = self._uri(f"{MODELS}/{place.name}", self._out / MODELS / place.name)
                diary.log_model(place, at=at, losses=position.losses[:step], validated=position.validated)
        best = best_of(position.validated)
        for old in places[: -self._count or None]:
            if best is not None and old.name == _name(best.step):
                continue
            shutil.rmtree(old)
            if self._s3 is not None:
                self._s3.store.delete(f"{self._s3.run}/{MODELS}/{old.name}")

    def best(self, position: Position) -> Path | None:
        """The best on held-out samples, where it is not the final one; from S3 where it was kept on another machine."""
        best = best_of(position.validated)
        if best is None or best.step == position.step:
            return None
        place = self.work / MODELS / _name(best.step)
        if not place.is_dir() and self._s3 is not None:
            self._download(f"{self._s3.run}/{MODELS}/{place.name}", place)
        if not place.is_dir():
            log.warning("the best model, of step %d, is not there any more; the last one is taken", best.step)
            return None
        return place

    def hand_over(self, to: Path) -> None:
        """Put the kept models into the folder of the finished stage."""
        for place in self._places():
            shutil.copytree(place, to / MODELS / place.name, copy_function=link)

    def finish(self, diary: RunLog, position: Position, *, step: int) -> None:
        """Log the final model, whose weights are those of `step` and which is at `out` by now."""
        self._upload(self._out, FINAL)
        if self._count:
            losses = position.losses[:step]
            diary.log_model(self._out, at=self._uri(FINAL, self._out), losses=losses, validated=position.validated)

    def tell_result(self) -> None:
        """The record at `out` says more now."""
        if self._s3 is not None:
            target = self._s3
            patiently(lambda: target.store.put(f"{target.run}/{FINAL}/{STAGE_FILE}", self._out / STAGE_FILE))

    def _places(self) -> list[Path]:
        return sorted((self.work / MODELS).glob("step-*"))

    def _download(self, folder: str, to: Path) -> None:
        assert self._s3 is not None
        store = self._s3.store
        entries = patiently(lambda: list(store.entries(folder)))
        if not entries:
            return
        with whole_directory(to) as partial:
            for entry in entries:
                path = partial / entry.key.removeprefix(f"{folder}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                patiently(lambda entry=entry, path=path: store.save(entry.key, path))  # type: ignore[misc]  # of this turn

    def _uri(self, name: str, path: Path) -> str:
        return path.absolute().as_uri() if self._s3 is None else f"{self._s3.uri}/{name}"

    def _upload(self, folder: Path, name: str) -> None:
        """All files but the models kept beside, and last the one that says the rest is there."""
        if self._s3 is None:
            return
        target = self._s3
        files = [file for file in folder.rglob("*") if file.is_file() and MODELS not in file.relative_to(folder).parts]
        for file in sorted(files, key=lambda one: one.name in {"digests.json", STAGE_FILE}):
            key = f"{target.run}/{name}/{file.relative_to(folder).as_posix()}"
            patiently(lambda key=key, file=file: target.store.put(key, file))  # type: ignore[misc]  # of this turn


def _name(step: int) -> str:
    return f"step-{step:08d}"
