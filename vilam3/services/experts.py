"""Experts that run elsewhere: `vilam3.consultant.Experts` over KServe's V1 predict.

A service that is scaled to zero, starting or restarting is waited for; one that is missing, too slow or failing becomes
an `ExpertError` whose sentence the model and the reader are told. A caller who leaves closes the connection.
"""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from vilam3.data.sample import Dialect
from vilam3.data.study import Study
from vilam3.errors import ExpertError, UserError, VilaM3Error
from vilam3.experts.protocol import ExpertCall, ExpertResult
from vilam3.experts.roster import Listed, Roster, published
from vilam3.services.findings import Consultation, Finding
from vilam3.services.http import COLD, NOT_BEGUN, Patience, check_url, complaint, expert_error, settings

T = TypeVar("T")
TICK_S = 0.05
CARD_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long an expert is waited for.

    Attributes:
        warmup_s: A service that does not answer the door: scaled to zero, starting, or all its places taken.
        total_s: Everything together, its computing included.
    """

    warmup_s: float = 120.0
    total_s: float = 240.0


class RemoteExperts(Roster[Listed]):
    """Experts by name and address; safe to share between threads."""

    needs_reference = True

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
        self._dialect: Dialect = "demo"
        super().__init__(published(name) or fetch_card(name, url, self._waits) for name, url in self._urls.items())

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
        cancelled: threading.Event | None = None,
    ) -> ExpertResult:
        """See `vilam3.consultant.Experts`.

        Raises:
            ExpertError: it is missing, cold, too slow or failing, or refuses.
        """
        url = self._urls[self.find(call.expert).name]
        asked = consultation(call, study, slice_index=slice_index, dialect=self._dialect)
        finding = asyncio.run(_unless(cancelled, self._ask(call.expert, url, asked)))
        return checked(call.expert, finding, study)

    async def _ask(self, name: str, url: str, asked: Consultation) -> Finding:
        end = time.monotonic() + self._waits.total_s
        patience = Patience(min(self._waits.warmup_s, self._waits.total_s))
        async with httpx.AsyncClient(**settings(url, read_s=self._waits.total_s)) as http:
            while True:
                response, trouble = await self._attempt(http, name, asked, left_s=end - time.monotonic())
                if response is not None and response.status_code not in COLD:
                    return _finding(name, response)
                if patience.is_over:
                    raise ExpertError(
                        f"its service did not take the question within {patience.total_s:g} s ({trouble})."
                    )
                await asyncio.sleep(patience.pause_s(response))

    async def _attempt(
        self, http: httpx.AsyncClient, name: str, asked: Consultation, *, left_s: float
    ) -> tuple[httpx.Response | None, str]:
        """One request: the response, or why there is none to have yet."""
        body = {"instances": [asked.model_dump(mode="json")]}
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                response = await http.post(f"/v1/models/{name.lower()}:predict", json=body)
        except NOT_BEGUN as error:
            return None, f"no connection: {type(error).__name__}"
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ExpertError(f"it did not finish within {self._waits.total_s:g} s.") from error
        except httpx.HTTPError as error:
            raise ExpertError(f"its service broke off while it computed ({type(error).__name__}).") from error
        return response, complaint(response)[0] if response.is_error else ""


def consultation(call: ExpertCall, study: Study, *, slice_index: int | None, dialect: Dialect) -> Consultation:
    """What an expert elsewhere is asked.

    Raises:
        ExpertError: the study is nowhere that others can see it.
    """
    if not study.reference:
        raise ExpertError(f"expert {call.expert}: the study is not in the store that experts read; upload it first")
    return Consultation(
        study=study.reference,
        study_digest=study.digest,
        argument=call.argument,
        slice_index=slice_index,
        modality=study.modality,
        dialect=dialect,
    )


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


async def _unless(cancelled: threading.Event | None, asking: Awaitable[T]) -> T:
    """The outcome, or an error at once when nobody waits for it any more."""
    work = asyncio.ensure_future(asking)
    while not work.done():
        if cancelled is not None and cancelled.is_set():
            work.cancel()
            raise ExpertError("nobody waits for it any more.")
        await asyncio.wait({work}, timeout=TICK_S)
    return work.result()


def _finding(name: str, response: httpx.Response) -> Finding:
    if response.is_error:
        raise expert_error(name, complaint(response)[0], status=response.status_code)
    try:
        predictions: list[Any] = json.loads(response.content)["predictions"]
        return Finding.model_validate(predictions[0])
    except (ValueError, KeyError, IndexError, TypeError, ValidationError) as error:
        raise ExpertError(f"its service gave an answer that is not understood ({type(error).__name__}).") from error


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
