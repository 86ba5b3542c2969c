"""``POST /v1/graph``: one step of an inference graph, the same dialogue as everywhere, taken up where the state stands.

The model's step gives the next reply; an expert's step answers the calls that are its own. A call that no step has
answered is told to the model and the reader as a failure, so that a graph without that expert degrades in the open.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from serving.completion import Answered, completion
from serving.expert import ExpertService
from serving.flow import Flow
from serving.graph_wire import Call, LookedAt, Round, State, Told
from serving.inquiry import Inquiry, prepare
from serving.presence import gone
from serving.provenance import Model, made_with
from serving.results import ResultStore
from serving.studies import StudyStore
from serving.tenants import Tenants
from serving.vlm import ModelService
from serving.wire import MODEL_NAME, MOST_ROUNDS, Usage
from vilam3.consultant import Consultant
from vilam3.data.study import Study
from vilam3.dialogue.loop import Consult, Generate, Outcome, Step, Transcript
from vilam3.dialogue.messages import Generation
from vilam3.dialogue.panel import consult
from vilam3.dialogue.record import UNREADABLE, expert_call, notes
from vilam3.dialogue.replay import replay
from vilam3.errors import DataError, ExpertError, NotFoundError
from vilam3.experts.protocol import ExpertCall, ExpertResult, Watch
from vilam3.experts.roster import Listed, Roster
from vilam3.graph import PASSING_PATH, STEP_PATH
from vilam3.services.findings import Consultation
from vilam3.shelf import NONE, tenant_folder

NO_STEP = "no step of this graph asks it."

router = APIRouter(default_response_class=JSONResponse)


class OnPaper(Roster[Listed]):
    """Experts that the graph asks, not this process."""

    def run(self, call: ExpertCall, study: Study, **_: object) -> ExpertResult:
        """Never called: the steps of the graph do this."""
        raise AssertionError(f"{call.expert} is asked about {study.modality} by a step of the graph")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStep:
    """The language model's step."""

    service: ModelService
    studies: StudyStore
    roster: Callable[[], OnPaper]

    async def take(self, state: State, request: Request) -> dict[str, Any]:
        """The state with the next reply, or the finished completion."""
        tenant = self.service.tenants.of(request.headers)
        work = partial(self._take, state, tenant)
        flow: Flow[str, dict[str, Any]] = Flow(self.service.replies, work)
        return await flow.outcome(gone=gone())

    def _take(self, state: State, tenant: str, flow: Flow[str, Any]) -> dict[str, Any]:
        inquiry = self._inquire(state, tenant)
        state = self._begun(state, inquiry, tenant)
        grammar = self.roster().grammar(several=state.several)
        for call in state.calls:
            state = state.answered(Told(expert=call.expert, argument=call.argument, error=NO_STEP))
        reached = replay(inquiry.asking, grammar, _said(state))
        while isinstance(reached, Generate):  # a call that names no expert is answered at once, and the model goes on
            sampling = replace(inquiry.sampling, scope=tenant)
            generation = self.service.decode(flow, list(reached.messages), sampling)
            state = _replied(state, generation)
            reached = replay(inquiry.asking, grammar, _said(state))
        if isinstance(reached, Transcript):
            return completion(self._answered(state, reached, inquiry))
        return _pending(state, reached).model_dump(mode="json")

    def _inquire(self, state: State, tenant: str) -> Inquiry:
        named = None
        if state.study is not None:
            check_owner(self.service.tenants, tenant, state.study)
            named = self.studies.shelf.get(state.study)
        consultant = Consultant(engine=self.service.engine, experts=self.roster(), dialect=self.service.dialect)
        return prepare(state, tenant=tenant, studies=self.studies, consultant=consultant, named=named)

    def _begun(self, state: State, inquiry: Inquiry, tenant: str) -> State:
        """With what the first step adds: a name, and a reference that experts can follow."""
        update: dict[str, Any] = {} if state.answer_id else {"answer_id": ResultStore.new_id()}
        study = inquiry.study
        if state.looked_at is None and study is not None:
            reference = study.reference or self.studies.shelf.put(tenant, study).reference
            update["looked_at"] = LookedAt(
                reference=reference, digest=study.digest, modality=study.modality, dialect=self.service.dialect
            )
        return state.model_copy(update=update)

    def _answered(self, state: State, transcript: Transcript, inquiry: Inquiry) -> Answered:
        study = inquiry.study
        return Answered(
            answer_id=state.answer_id or ResultStore.new_id(),
            created=int(time.time()),
            text=transcript.answer,
            notes=notes(transcript, max_rounds=inquiry.asking.max_rounds),
            finish_reason="length" if transcript.ending == "rounds" else "stop",
            expert_calls=_records(state, transcript),
            usage=state.usage,
            provenance=made_with(
                Model(
                    name=MODEL_NAME,
                    digest=state.model_digest or self.service.digest,
                    engine=self.service.engine.name,
                    dialect=self.service.dialect,
                ),
                study,
                slice_index=inquiry.seen_slice,
                sampling=inquiry.sampling,
                rounds=len(state.said),
                ending=transcript.ending,
                expert_calls=_records(state, transcript),
            ),
            warnings=[] if study is None else list(study.warnings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertStep:
    """An expert's step."""

    service: ExpertService

    async def take(self, state: State, request: Request) -> dict[str, Any]:
        """The state with this expert's outcomes."""
        tenants = self.service.tenants
        tenant = tenants.of(request.headers)
        if state.looked_at is not None:
            check_owner(tenants, tenant, state.looked_at.reference)
        for call in [call for call in state.calls if call.expert == self.service.name]:
            told: Told = await self.service.begin(partial(self._run, state, call)).outcome(gone=gone())
            state = state.answered(told)
        return state.model_dump(mode="json")

    def _run(self, state: State, call: Call, watch: Watch) -> Told:
        began = time.monotonic()
        found: list[Any] = []

        def ask(_: ExpertCall, __: Watch) -> ExpertResult:
            found.append(self.service.run(_consultation(state, call), watch=watch))
            result: ExpertResult = found[0].result()
            return result

        outcome = consult(call.parsed(), ask)
        return Told(
            expert=call.expert,
            argument=call.argument,
            finding=found[0] if found and outcome.result is not None else None,
            error=outcome.error,
            seconds=round(time.monotonic() - began, 3),
        )


def check_owner(tenants: Tenants, tenant: str, reference: str) -> None:
    """Let a tenant name its own studies only; where nobody needs a key, whoever knows a reference may.

    Raises:
        NotFoundError: it is another's, which must look exactly like one that never was.
    """
    if not tenants.is_open and not reference.startswith(f"{tenant_folder(tenant)}/"):
        raise NotFoundError(NONE)


def _consultation(state: State, call: Call) -> Consultation:
    if state.looked_at is None:
        raise ExpertError(f"expert {call.expert}: the conversation has no images; send or name a study")
    return Consultation(
        study=state.looked_at.reference,
        study_digest=state.looked_at.digest,
        modality=state.looked_at.modality,
        dialect=state.looked_at.dialect,
        argument=call.argument,
        slice_index=state.slice_index,
    )


def _said(state: State) -> list[str | list[Outcome]]:
    """What the dialogue is replayed from; a last round without outcomes is one whose experts come next."""
    said: list[str | list[Outcome]] = []
    for number, round_ in enumerate(state.said, start=1):
        said.append(round_.reply)
        if round_.told and not (number == len(state.said) and state.calls):
            said.append([told.outcome() for told in round_.told])
    return said


def _records(state: State, transcript: Transcript) -> list[dict[str, Any]]:
    """One record for each outcome; a call that named no expert has an outcome, but no step was asked."""
    asked = iter(state.expert_calls)
    return [
        expert_call(outcome) if outcome.call.expert == UNREADABLE else next(asked) for outcome in transcript.outcomes
    ]


def _replied(state: State, generation: Generation) -> State:
    prompt = state.usage.prompt_tokens + generation.prompt_tokens
    completed = state.usage.completion_tokens + generation.completion_tokens
    update = {
        "said": [*state.said, Round(reply=generation.text, told=[])],
        "usage": Usage(prompt_tokens=prompt, completion_tokens=completed, total_tokens=prompt + completed),
        "model_digest": generation.model_digest,
    }
    return state.model_copy(update=update)


def _pending(state: State, reached: Step) -> State:
    """The state that waits for experts."""
    if not isinstance(reached, Consult):
        raise DataError("graph: the state does not belong to this step; begin again")
    calls = [Call(expert=call.expert, argument=call.argument) for call in reached.calls]
    left = state.max_rounds - len(state.said)
    return state.model_copy(update={"calls": calls, "expert": calls[0].expert, "rounds_left": max(0, left)})


def install(app: FastAPI, step: ModelStep | ExpertStep) -> None:
    """Put the routes on an application, before its own."""
    app.state.step = step
    app.include_router(router)


@router.post(STEP_PATH, response_model=None)
async def graph(request: Request, rounds: int = MOST_ROUNDS) -> Response:
    """One step; `rounds` is how many rounds of experts the graph has."""
    body = await _object(request)
    if body.get("object") == "chat.completion":  # finished by an earlier step
        return JSONResponse(body)
    try:
        state = State.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    if state.stream:
        raise DataError("stream: a graph answers whole; ask the orchestrator for a stream")
    step: ModelStep | ExpertStep = request.app.state.step
    bounded = state.model_copy(update={"max_rounds": max(0, min(state.max_rounds, rounds))})
    return JSONResponse(await step.take(bounded, request))


@router.post(PASSING_PATH, response_model=None)
async def pass_on(request: Request) -> Response:
    """Give back what came: the branch of a switch where nothing is to be done."""
    return JSONResponse(await _object(request))


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise DataError("graph: the body is not JSON; send a chat request") from error
    if not isinstance(body, dict):
        raise DataError("graph: the body is not a JSON object; send a chat request")
    return body
