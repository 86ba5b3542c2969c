"""What happens on each kind of news: all of it is a reason to look, and what is there decides.

So news may come twice, late or not at all: a schedule looks too, and the same content is the same run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vilam3.data.shards import MANIFEST
from vilam3.errors import DataError
from vilam3.intake.event import Answer, Event, Places, Trigger
from vilam3.intake.intake import Intake
from vilam3.intake.notices import Landed
from vilam3.objects import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an installation retrains with unless an event says otherwise.

    Attributes:
        pipeline: Name on the server.
        stages: That it trains.
        recipe: Resolved, one JSON text.
        base_checkpoint: As of `Places`.
        experts: Likewise.
        corpus: Likewise; empty where corpora come below `watch`.
        watch: Place of corpora, a folder each; the one whose manifest is the newest counts. Empty watches `corpus`.
    """

    pipeline: str
    stages: tuple[str, ...]
    recipe: str
    base_checkpoint: str = ""
    experts: str = ""
    corpus: str = ""
    watch: str = ""

    def event(
        self, trigger: Trigger, *, corpus: str = "", base_checkpoint: str = "", experts: str = "", recipe: str = ""
    ) -> Event:
        """An event; what is empty is taken from here.

        Raises:
            DataError: a place is given neither here nor there.
        """
        places = {
            "corpus": corpus or self.newest(),
            "base_checkpoint": base_checkpoint or self.base_checkpoint,
            "experts": experts or self.experts,
        }
        for name, place in places.items():
            if not place:
                raise DataError(f"{name}: neither the event nor the installation names it; give it")
        return Event(
            pipeline=self.pipeline,
            stages=self.stages,
            recipe=recipe or self.recipe,
            places=Places(**places),
            trigger=trigger,
        )

    def newest(self) -> str:
        """The corpus that counts now; empty where there is none."""
        if not self.watch:
            return self.corpus
        store = open_store(self.watch)
        manifests = [store.entry(f"{name}/{MANIFEST}") for name in store.folders() if not name.startswith(".")]
        found = [(one.modified_s, one.key) for one in manifests if one is not None]
        if not found:
            return self.corpus
        return f"{self.watch.rstrip('/')}/{max(found)[1].removesuffix(f'/{MANIFEST}')}"

    def corpus_of(self, uri: str) -> str | None:
        """The corpus whose manifest this object is, if it is one that counts here."""
        corpus, slash, name = uri.rpartition("/")
        if not slash or name != MANIFEST:
            return None
        above = corpus.rpartition("/")[0]
        is_watched = bool(self.watch) and above == self.watch.rstrip("/")
        return corpus if is_watched or (not self.watch and corpus == self.corpus.rstrip("/")) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """An intake with what its installation stands for."""

    intake: Intake
    standing: Standing

    def look(self) -> list[Answer]:
        """What a schedule does: ask for what is there now, and go on with what waits."""
        there = bool(self.standing.newest())
        asked = [self.intake.submit(self.standing.event("cron"))] if there else []
        keys = {answer.key for answer in asked}
        return asked + [answer for answer in self.intake.take_up() if answer.key not in keys]

    def base_moved(self, uri: str | None) -> list[Answer]:
        """An alias of the tracking store moved; asks where it is the one to start from."""
        if uri is None or uri != self.standing.base_checkpoint:
            return []
        return [self.intake.submit(self.standing.event("webhook"))]

    def objects_landed(self, objects: Sequence[Landed]) -> list[Answer]:
        """Objects came; asks once for each corpus whose manifest is among them."""
        corpora = [self.standing.corpus_of(one.uri) for one in objects]
        wanted = list(dict.fromkeys(corpus for corpus in corpora if corpus is not None))
        return [self.intake.submit(self.standing.event("new-data", corpus=corpus)) for corpus in wanted]
