"""The thread that steps vLLM: takes requests in, hands tokens out, drops what nobody wants any more."""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.llm_engine import LLMEngine

from vilam3.dialogue.messages import EngineStats
from vilam3.errors import BusyError, DataError, EngineError, VilaM3Error
from vilam3.model.batching.meter import Meter
from vilam3.model.ticket import End, Mailbox

IDLE_S = 0.05  # how often the thread looks whether it is to end while there is nothing to do
RETRY_AFTER_S = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A request on its way to vLLM.

    Attributes:
        prompt: As vLLM takes it.
        params: How to decode.
        priority: A lower one is begun earlier.
        mailbox: What the caller is told.
        num_images: Of the prompt.
        logprobs: Of each token, where they are asked for.
        arrived_s: When it was asked for.
    """

    prompt: dict[str, Any]
    params: SamplingParams
    priority: int = 0
    mailbox: Mailbox
    num_images: int = 0
    logprobs: list[Mapping[int, float]] = field(default_factory=list)
    arrived_s: float = field(default_factory=time.monotonic)


class Stepping:
    """Runs requests to their end."""

    def __init__(self, engine: LLMEngine, *, slots: int, waiting: int, adapter: LoRARequest | None) -> None:
        """Begin at once.

        Args:
            engine: Of vLLM; nobody else calls it.
            slots: Replies that it decodes side by side.
            waiting: Requests that may wait besides.
            adapter: Used for every request.
        """
        self._engine = engine
        self._slots, self._most = slots, slots + waiting
        self._adapter = adapter
        self._meter = Meter()
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._running: dict[str, Asked] = {}
        self._lock = threading.Lock()
        self._in_flight = 0
        self.lacking = ""  # why nothing can be computed any more, or nothing
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, asked: Asked) -> None:
        """Queue a request.

        Raises:
            BusyError: as many wait as may.
        """
        with self._lock:
            if self._in_flight >= self._most:
                raise BusyError(
                    f"engine: {self._in_flight} requests are decoded or wait, which is the most it holds; try again "
                    "later",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._in_flight += 1
        self._inbox.put(asked)

    def stats(self) -> EngineStats:
        """What is done now, and has been; what is beyond the places is counted as waiting."""
        meter, running = self._meter, min(self._in_flight, self._slots)
        return EngineStats(
            running=running,
            waiting=self._in_flight - running,
            free_slots=self._slots - running,
            prompt_tokens=meter.prompt_tokens,
            prompt_tokens_reused=meter.prompt_tokens_reused,
            generated_tokens=meter.generated_tokens,
            images=meter.images,
            images_reused=meter.images_reused,
            tokens_per_s=meter.tokens_per_s(),
            first_tokens=meter.first_tokens(),
        )

    def close(self) -> None:
        """End what is in flight as cancelled, and vLLM."""
        self._inbox.put(None)
        self._thread.join()
        self._engine.engine_core.shutdown()

    def _run(self) -> None:
        while True:
            try:
                if not self._take_in():
                    if not self.lacking:
                        self._drop(list(self._running))
                    return
                self._drop([number for number, asked in self._running.items() if asked.mailbox.cancelled.is_set()])
                for output in self._engine.step() if self._running else ():
                    self._hand_out(cast("RequestOutput", output))
            except Exception as error:  # noqa: BLE001 - whatever it is, callers must not wait for ever
                kind = type(error).__name__
                log.error("vllm failed: %s", kind)  # noqa: TRY400 - a message may quote a prompt
                self.lacking = f"engine: vLLM failed ({kind}) and does not recover; see its log and restart it"
                for number in list(self._running):
                    self._leave(self._running.pop(number), EngineError(self.lacking))

    def _take_in(self) -> bool:
        """Pass on what has come; waits a moment where there is nothing to do. False when closed."""
        with contextlib.suppress(queue.Empty):
            while True:
                asked = self._inbox.get_nowait() if self._running else self._inbox.get(timeout=IDLE_S)
                if asked is None:
                    return False
                self._pass_on(asked)
        return True

    def _pass_on(self, asked: Asked) -> None:
        number = str(next(self._numbers))
        if self.lacking:
            self._leave(asked, EngineError(self.lacking))
            return
        try:
            self._engine.add_request(
                number, asked.prompt, asked.params, lora_request=self._adapter, priority=asked.priority
            )
        except (ValueError, VLLMClientError) as error:  # a refusal, such as of a pattern that it cannot compile
            self._leave(asked, DataError(f"engine: {str(error).splitlines()[0]}"))
            return
        except Exception as error:  # noqa: BLE001 - likewise
            log.error("vllm did not take a request: %s", type(error).__name__)  # noqa: TRY400 - likewise
            self._leave(asked, EngineError("engine: vLLM failed to take this request; see its log"))
            return
        self._running[number] = asked

    def _drop(self, numbers: list[str]) -> None:
        if numbers:
            self._engine.abort_request(numbers)
        for number in numbers:
            self._leave(self._running.pop(number), End(reason="cancelled"))

    def _hand_out(self, output: RequestOutput) -> None:
        asked = self._running.get(output.request_id)
        if asked is None:
            return  # it was dropped
        said, mailbox = output.outputs[0], asked.mailbox
        if not mailbox.said:
            self._begun(asked, reused=output.num_cached_tokens or 0)
        for place, token in enumerate(said.token_ids):
            mailbox.said.append(token)
            if said.logprobs is not None:
                asked.logprobs.append({key: told.logprob for key, told in said.logprobs[place].items()})
            if token not in (asked.params.stop_token_ids or ()):
                mailbox.say(token, now_s=time.monotonic())
        self._meter.said(len(said.token_ids))
        if output.finished:
            reason = said.finish_reason
            self._leave(self._running.pop(output.request_id), End(reason="stop" if reason == "stop" else "length"))

    def _begun(self, asked: Asked, *, reused: int) -> None:
        asked.mailbox.reused = reused
        self._meter.begun(positions=asked.mailbox.prompt_tokens, reused=reused)
        for _ in range(asked.num_images):
            self._meter.image(is_reused=False)  # vLLM does not tell
        self._meter.first_token(arrived_s=asked.arrived_s)

    def _leave(self, asked: Asked, last: End | VilaM3Error) -> None:
        with self._lock:
            self._in_flight -= 1
        asked.mailbox.end(last)
