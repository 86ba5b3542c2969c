"""Which engine is chosen, what it may take, and what it says of itself."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from pydantic import ValidationError

from serving import engine_metrics, engine_options
from serving.reply_wire import ReplyRequest
from serving.wire import ChatRequest, Instance
from tests.unit.serving.fakes import RuleEngine
from vilam3.dialogue.messages import EngineStats, FirstTokens
from vilam3.engines import EngineChoice, open_engine
from vilam3.errors import UserError

ASKED = {"messages": [{"role": "user", "content": "q"}]}


def chosen(*words: str) -> EngineChoice:
    parser = argparse.ArgumentParser()
    engine_options.add(parser)
    return engine_options.choice(parser.parse_args(words))


def test_what_is_not_said_stays_as_it_is() -> None:
    assert chosen() == EngineChoice()
    words = ("--engine", "vllm", "--slots", "3", "--engine-options", '{"tensor_parallel_size": 2}')
    assert chosen(*words) == EngineChoice(kind="vllm", slots=3, options={"tensor_parallel_size": 2})


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--slots", "0"), "at least one slot"),
        (("--memory-gib", "-1"), "nothing below nought"),
        (("--engine-options", "{"), "not JSON"),
        (("--engine-options", "[1]"), "not an object"),
    ],
)
def test_what_cannot_be_is_refused_in_words(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        chosen(*words)


def test_an_engine_that_is_not_installed_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'other': not installed here"):
        open_engine(tmp_path, EngineChoice(kind="other"))
    with pytest.raises(UserError, match="engine torch: has no options, but was given eager"):
        open_engine(tmp_path, EngineChoice(options={"eager": True}))


@dataclass(slots=True, kw_only=True)
class BusyEngine(RuleEngine):
    """Has done something."""

    done: EngineStats = field(
        default_factory=lambda: EngineStats(
            running=2,
            waiting=1,
            free_slots=14,
            prompt_tokens=1000,
            prompt_tokens_reused=640,
            first_tokens=FirstTokens(bounds_s=(0.1, 1.0), counts=(3, 2, 1), total_s=7.5),
        )
    )

    def stats(self) -> EngineStats:
        """What it has done."""
        return self.done


def test_its_counters_are_read_when_somebody_looks() -> None:
    engine_metrics.watch(RuleEngine())
    engine_metrics.watch(BusyEngine())
    told = generate_latest().decode()
    for line in (
        "vilam3_engine_running 2.0",
        "vilam3_engine_free_slots 14.0",
        "vilam3_engine_prompt_tokens_reused_total 640.0",
        'vilam3_engine_first_token_seconds_bucket{le="0.1"} 3.0',
        'vilam3_engine_first_token_seconds_bucket{le="1.0"} 5.0',
        'vilam3_engine_first_token_seconds_bucket{le="+Inf"} 6.0',
        "vilam3_engine_first_token_seconds_sum 7.5",
    ):
        assert f"\n{line}\n" in told, line


def test_a_scope_is_bound_to_who_asks() -> None:
    asked = ReplyRequest.model_validate({**ASKED, "cache_salt": "ward-3"})
    scopes = {asked.sampling(tenant=tenant).scope for tenant in ("a", "b")}
    assert scopes == {"a/ward-3", "b/ward-3"}


def test_a_task_reaches_the_engine_by_every_protocol() -> None:
    asked = {**ASKED, "task": "report"}
    assert ReplyRequest.model_validate(asked).sampling().task == "report"
    assert ChatRequest.model_validate(asked).sampling().task == "report"
    assert Instance.model_validate({"question": "q", "task": "report"}).as_chat().sampling().task == "report"
    with pytest.raises(ValidationError, match="at most 100 characters"):
        ChatRequest.model_validate({**ASKED, "task": "r" * 101})


def test_stop_texts_and_a_pattern_reach_the_engine() -> None:
    asked = ReplyRequest.model_validate({**ASKED, "stop": ")>", "structured_outputs": {"regex": "yes|no"}})
    assert (asked.sampling().stop, asked.sampling().pattern) == ((")>",), "yes|no")
    assert ReplyRequest.model_validate({**ASKED, "stop": ["a", "b"]}).sampling().stop == ("a", "b")
