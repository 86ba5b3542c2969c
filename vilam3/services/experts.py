"""Experts that run elsewhere: `vilam3.consultant.Experts` over KServe's V1 predict.

A service that is scaled to zero, starting or restarting is waited for; one that is missing, too slow or failing becomes
an `ExpertError` whose sentence the model and the reader are told. A caller who leaves closes the connection.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Self

import httpx

from vilam3.data.sample import Dialect
from vilam3.data.study import Study
from vilam3.errors import ExpertError, UserError, VilaM3Error
from vilam3.experts.protocol import ExpertCall, ExpertResult, Point, Watch, model_of, unwatched
from vilam3.experts.roster import Listed, Roster, published
from vilam3.services.findings import Consultation, Finding
from vilam3.services.http import Patience, check_url, complaint, settings
from vilam3.services.visit import CARD_WAIT_S, Visit, Waits

TICK_S = 0.05
CARD_S = 15.0  # how long a card is believed
GLANCE_S = 1.0


class Elsewhere(Roster[Listed], ABC):
    """Experts that are asked by reference to a study in the shared store."""

    needs_reference = True

    def __init__(self, listed: Iterable[Listed]) -> None:
        """Know these experts."""
        super().__init__(listed)
        self._dialect: Dialect = "demo"

    def speaking(self, dialect: Dialect) -> Self:
        """The same experts, asked for the wording that a language model was trained in."""
        other = copy(self)
        other._dialect = dialect  # noqa: SLF001 - of our own kind
        return other

    def run(
        self,
        call: ExpertCall,
        study: Study,
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """See `vilam3.consultant.Experts`.

        Raises:
            Cancelled: by `watch`, which is asked several times a second.
            ExpertError: it is missing, cold, too slow or failing, or refuses.
        """
        name = self.find(call.expert).name
        if not study.reference:
            raise ExpertError(f"expert {name}: the study is not in the store that experts read; upload it first")
        asked = Consultation(
            study=study.reference,
            study_digest=study.digest,
            argument=call.argument,
            slice_index=slice_index,
            points=tuple(points),
            modality=study.modality,
            dialect=self._dialect,
        )
        return checked(name, self.consult(name, asked, watch), study)

    @abstractmethod
    def consult(self, name: str, asked: Consultation, watch: Watch) -> Finding:
        """Ask one expert."""


class RemoteExperts(Elsewhere):
    """Experts by name and address; safe to share between threads."""

    def __init__(self, urls: Mapping[str, str], *, waits: Waits | None = None) -> None:
        """Know the experts of `urls`; the published ones need not be up, others are asked for their card.

        Args:
            urls: Name as in triggers to the address of `vilam3 serve --role expert`.
            waits: How long they are waited for.

        Raises:
            UserError: an address is none, or an expert that is not published does not show its card.
        """
        self._urls = {name: check_url(url, option=f"--expert-url {name}=") for name, url in urls.items()}
        self._waits = waits or Waits()
        self._models: dict[str, tuple[float, str]] = {}
        super().__init__(published(name) or fetch_card(name, url, self._waits) for name, url in self._urls.items())

    def model_of(self, name: str) -> str:
        """See `Roster.model_of`; a service that is down or scaled to zero is taken for what it last was."""
        seen_at, model = self._models.get(name, (float("-inf"), ""))
        if time.monotonic() - seen_at > CARD_S:
            model = _model_now(name, self._urls[name]) or model
            self._models[name] = (time.monotonic(), model)
        return model

    def consult(self, name: str, asked: Consultation, watch: Watch) -> Finding:
        """See `Elsewhere.consult`."""
        visit = Visit(name=name, url=self._urls[name], waits=self._waits)
        return asyncio.run(_watched(visit, visit.ask(asked), watch))


def _model_now(name: str, url: str) -> str:
    """What the service says of its model; empty if it does not say, or not soon."""
    try:
        with httpx.Client(**settings(url, read_s=GLANCE_S)) as http:
            told = http.get(f"/v1/models/{name.lower()}")
        card = told.json() if told.is_success else {}
        return model_of(str(card.get("version", "")), str(card.get("weights_digest", "")))
    except (httpx.HTTPError, ValueError, AttributeError):
        return ""


def fetch_card(name: str, url: str, waits: Waits) -> Listed:
    """What an added expert says of itself.

    Raises:
        UserError: it does not, in the time of a warm-up.
    """
    patience, trouble = Patience(waits.warmup_s), ""
    with httpx.Client(**settings(url, read_s=CARD_WAIT_S)) as http:
        while True:
            try:
                told = http.get(f"/v1/models/{name.lower()}")
                if told.is_success:
                    return Listed(name=name, arguments=tuple(told.json()["arguments"]), card=str(told.json()["card"]))
                trouble = complaint(told)[0]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                trouble = type(error).__name__
            if patience.is_over:
                raise UserError(
                    f"--expert-url {name}={url}: does not show its card ({trouble}); start it first, since only the "
                    "published experts are known without"
                )
            time.sleep(patience.pause_s())


async def _watched(visit: Visit, asking: Coroutine[Any, Any, Finding], watch: Watch) -> Finding:
    """The finding; `watch` may end the visit, which closes the connection."""
    work = asyncio.ensure_future(asking)
    try:
        while not work.done():
            watch(visit.fraction)
            await asyncio.wait({work}, timeout=TICK_S)
        return work.result()
    finally:
        work.cancel()


def checked(name: str, finding: Finding, study: Study) -> ExpertResult:
    """The finding, if it is about the study that was asked about.

    Raises:
        ExpertError: it is not, or its picture is damaged.
    """
    if finding.provenance.study_digest != study.digest:
        raise ExpertError(f"the expert {name} looked at another study; nothing of its answer is used.")
    if finding.mask is not None and not finding.mask.startswith(f"{study.reference}/"):
        raise ExpertError(f"the expert {name} names a segmentation of another study; nothing of its answer is used.")
    try:
        return finding.result()
    except VilaM3Error as error:
        raise ExpertError(f"the picture of the expert {name} cannot be used: {error}") from error
