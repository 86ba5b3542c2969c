"""The one thread that runs the network: plans a pass, fills places from memory, runs it, hands out tokens.

Callers' threads only queue requests and read what they are told; the lock is never held during a pass.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilam3.dialogue.messages import EngineStats
from vilam3.errors import EngineError
from vilam3.model.batching.cache import SlotCache
from vilam3.model.batching.choose import choose
from vilam3.model.batching.features import FeatureStore
from vilam3.model.batching.meter import Meter
from vilam3.model.batching.network import Network, Piece, Said
from vilam3.model.batching.prefixes import BLOCK, PrefixStore
from vilam3.model.batching.recorded import RecordedDecoding, cuda_graph
from vilam3.model.batching.request import Picture, Request
from vilam3.model.batching.schedule import Chunk, Plan, Scheduler
from vilam3.model.checkpoint import Loaded
from vilam3.model.ticket import End, Reason

LINGER_S = 2.0  # how long the thread awaits more work

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine may take.

    Attributes:
        slots: Replies that are decoded side by side.
        waiting: Requests that may wait besides.
        chunk: Most prompt positions of one pass; what a long prompt delays the others by.
        prefix_bytes: Memory for keys and values of earlier prompts and replies.
        feature_bytes: Memory for what the vision tower made of pictures.
        packed_bytes: Memory for a copy of the language model's weights that a processor multiplies faster with.
    """

    slots: int = 16
    waiting: int = 64
    chunk: int = 256
    prefix_bytes: int = 512 * 2**20
    feature_bytes: int = 128 * 2**20
    packed_bytes: int = 2**30


class Loop:
    """Runs requests to their end, in a thread that begins with the first of them."""

    def __init__(self, loaded: Loaded, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; memory for places is taken as it is used.

        Args:
            loaded: The network.
            limits: What may be taken.
            clock: Seconds.
        """
        model = loaded.model
        self.meter = Meter(clock)
        self.features = FeatureStore(limits.feature_bytes)
        self.prefixes = PrefixStore(limits.prefix_bytes)
        self.scheduler: Scheduler[Request] = Scheduler(
            slots=limits.slots, waiting=limits.waiting, chunk=limits.chunk, clock=clock
        )
        self._model = model
        self._tokens_per_image = loaded.config.tokens_per_image
        spare = limits.slots  # one place more than are given out, for recordings
        self._cache = SlotCache(loaded.config.llm, slots=spare + 1, dtype=model.dtype, device=model.device)
        self._network = Network(model, self._cache, packed_bytes=limits.packed_bytes)
        self._recorded: RecordedDecoding | None = None
        if model.device.type == "cuda":
            self._recorded = RecordedDecoding(self._network, slots=limits.slots, spare=spare, record=cuda_graph)
        self._stops = frozenset(loaded.template.stop_ids(loaded.tokenizer))
        self._stop_ids = torch.tensor(sorted(self._stops), device=model.device)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, request: Request, *, patiently: bool = False) -> None:
        """Queue a request.

        Args:
            request: New.
            patiently: Wait until there is room.

        Raises:
            BusyError: as many wait as may.
            EngineError: the engine was closed.
        """
        with self._changed:
            if patiently:
                self._changed.wait_for(lambda: self.scheduler.has_room or self._is_closed)
            if self._is_closed:
                raise EngineError("engine: it was closed; load the model again")
            request.arrived_s = self.meter.clock()
            self.scheduler.submit(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wake(self) -> None:
        """Look at what was cancelled."""
        with self._changed:
            self._changed.notify_all()

    def stats(self) -> EngineStats:
        """What is done now, and has been."""
        meter, scheduler = self.meter, self.scheduler
        with self._changed:
            return EngineStats(
                running=len(scheduler.running),
                waiting=scheduler.num_waiting,
                free_slots=scheduler.num_free,
                prompt_tokens=meter.prompt_tokens,
                prompt_tokens_reused=meter.prompt_tokens_reused,
                generated_tokens=meter.generated_tokens,
                images=meter.images,
                images_reused=meter.images_reused,
                tokens_per_s=meter.tokens_per_s(),
                first_tokens=meter.first_tokens(),
            )

    def close(self) -> None:
        """End what is in flight as cancelled, and the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            try:
                plan = self._planned()
                if plan is None:
                    return
                if plan.decoding or plan.chunks:
                    self._hand_out(plan, self._pass(plan))
            except Exception as error:  # noqa: BLE001 - whatever it is, callers must not wait for ever
                log.error("the network failed: %s", type(error).__name__)  # noqa: TRY400 - a message may quote a prompt
                self._fail(EngineError(f"engine: the network failed ({error}); see the log of this process"))

    def _planned(self) -> Plan[Request] | None:
        """Wait for work; None when there has been none for a while, and the thread ends."""
        with self._changed:
            has_work = self._changed.wait_for(lambda: self._is_closed or not self.scheduler.is_idle, LINGER_S)
            for request in self.scheduler.discard(lambda entry: self._is_closed or entry.mailbox.cancelled.is_set()):
                request.mailbox.end(End(reason="cancelled"))
            self._changed.notify_all()
            if self._is_closed or not has_work:
                self._thread = None  # a thread that only waits would keep the network in memory
                return None
            return self.scheduler.plan(self._remembered)

    def _remembered(self, request: Request) -> int:
        """Look up what is known of a prompt's beginning; the last position is left, since its logits are needed."""
        request.recalled = self.prefixes.longest(request.chain.keys[: (request.length - 1) // BLOCK])
        request.mailbox.reused = reused = len(request.recalled) * BLOCK
        self.meter.begun(positions=request.length, reused=reused)
        for picture in request.pictures:
            is_known = picture.start + self._tokens_per_image <= reused or picture.key in self.features
            self.meter.image(is_reused=is_known)
        return reused

    def _fill_places(self, plan: Plan[Request]) -> None:
        """Moves come first: a request that was just admitted may have the place that another one leaves by a move."""
        for move in plan.moves:
            self._cache.move(move)
        for request in (chunk.entry for chunk in plan.chunks):
            for index, block in enumerate(request.recalled):
                self._cache.copy_in(request.place, index * BLOCK, block)
            request.recalled = ()

    @torch.inference_mode()
    def _pass(self, plan: Plan[Request]) -> list[int]:
        self._fill_places(plan)
        self._encode([picture for chunk in plan.chunks for picture in self._seen(chunk)])
        said = [
            Said(slot=request.place, position=request.filled, token=request.said[-1], family=request.family)
            for request in plan.decoding
        ]
        if self._recorded is not None and not plan.chunks and self._recorded.fits(said):
            logits_BV = self._recorded.run(said)
        else:
            logits_BV = self._network.run(said, [self._piece(chunk) for chunk in plan.chunks])
        if not plan.choosing:
            return []
        for request, logits_V in zip(plan.choosing, logits_BV, strict=True):
            if request.logprobs is not None:
                request.logprobs.append(logits_V.float().log_softmax(dim=-1).cpu())
        return choose(logits_BV, [request.row() for request in plan.choosing], stops=self._stop_ids)

    def _seen(self, chunk: Chunk[Request]) -> list[Picture]:
        """Pictures that a chunk holds some positions of."""
        return [
            picture
            for picture in chunk.entry.pictures
            if picture.start < chunk.stop and picture.start + self._tokens_per_image > chunk.start
        ]

    def _encode(self, pictures: Sequence[Picture]) -> None:
        """See to the features of these pictures; each that is new is encoded once, all together."""
        new: dict[bytes, Tensor] = {}
        for picture in pictures:
            if picture.features_KH is None:
                picture.features_KH = self.features.get(picture.key)
            if picture.features_KH is None and picture.key not in new:
                new[picture.key] = picture.reread() if picture.pixels_CHW is None else picture.pixels_CHW
            picture.pixels_CHW = None
        if new:
            encoded_NKH = self._model.encode_images(torch.stack(list(new.values())))
            for key, features_KH in zip(new, encoded_NKH, strict=True):
                self.features.put(key, features_KH.clone())
            fresh = dict(zip(new, encoded_NKH, strict=True))
            for picture in pictures:
                if picture.features_KH is None:
                    picture.features_KH = fresh[picture.key]

    def _piece(self, chunk: Chunk[Request]) -> Piece:
        parts = []
        for picture in self._seen(chunk):
            assert picture.features_KH is not None, "it was encoded before"
            begin, end = max(picture.start, chunk.start), min(picture.start + self._tokens_per_image, chunk.stop)
            parts.append((begin - chunk.start, picture.features_KH[begin - picture.start : end - picture.start]))
            if end == picture.start + self._tokens_per_image:
                picture.features_KH = None  # its positions are computed now
        return Piece(
            slot=chunk.entry.place,
            start=chunk.start,
            ids=chunk.entry.ids[chunk.start : chunk.stop],
            pictures=parts,
            wants_logits=chunk.is_last,
            family=chunk.entry.family,
        )

    def _hand_out(self, plan: Plan[Request], tokens: Sequence[int]) -> None:
        ended: list[tuple[Request, Reason]] = []
        with self._changed:
            self.scheduler.advance(plan)
        for chunk in plan.chunks:
            if chunk.is_last:
                self._remember(chunk.entry)
                self.meter.first_token(arrived_s=chunk.entry.arrived_s)
        now_s = time.monotonic()
        for request, token in zip(plan.choosing, tokens, strict=True):
            request.said.append(token)
            if token in self._stops:
                ended.append((request, "stop"))
                continue
            request.mailbox.say(token, now_s=now_s)
            if len(request.said) >= request.most:
                ended.append((request, "length"))
        if tokens:
            self.meter.said(len(tokens))
        self._end(ended)

    def _end(self, ended: Sequence[tuple[Request, Reason]]) -> None:
        for request, _ in ended:
            request.chain.add_tokens(request.said[: request.filled - request.length])
            self._remember(request)
        with self._changed:
            for request, _ in ended:
                self.scheduler.leave(request)
            self._changed.notify_all()
        for request, reason in ended:
            request.mailbox.end(End(reason=reason))

    def _remember(self, request: Request) -> None:
        """Keep the full blocks of a place that are not kept yet."""
        for index, key in enumerate(request.chain.keys):
            if key not in self.prefixes:
                self.prefixes.put(key, self._cache.copy_out(request.place, index * BLOCK, (index + 1) * BLOCK))

    def _fail(self, error: EngineError) -> None:
        """Tell everyone who has a place; those who wait may have more luck."""
        with self._changed:
            for request in self.scheduler.running:
                self.scheduler.leave(request)
                request.mailbox.end(error)
            self._changed.notify_all()
