"""Counts what an engine does; written by its one thread, read by any."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from vilam3.dialogue.messages import FirstTokens

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LATELY_S = 10.0


class Meter:
    """Counters since the beginning, and the speed of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at nought."""
        self.clock = clock
        self.prompt_tokens = 0
        self.prompt_tokens_reused = 0
        self.generated_tokens = 0
        self.images = 0
        self.images_reused = 0
        self._waits = [0] * (len(BOUNDS_S) + 1)
        self._waited_s = 0.0
        self._lately: deque[tuple[float, int]] = deque()

    def begun(self, *, positions: int, reused: int) -> None:
        """A prompt was begun, so many of its positions being remembered."""
        self.prompt_tokens += positions
        self.prompt_tokens_reused += reused

    def image(self, *, is_reused: bool) -> None:
        """A prompt that was begun holds a picture."""
        self.images += 1
        self.images_reused += is_reused

    def first_token(self, *, arrived_s: float) -> None:
        """A request has its first token."""
        waited_s = self.clock() - arrived_s
        self._waits[bisect_left(BOUNDS_S, waited_s)] += 1
        self._waited_s += waited_s

    def said(self, num_tokens: int) -> None:
        """So many tokens came of one pass."""
        self.generated_tokens += num_tokens
        self._lately.append((self.clock(), num_tokens))
        self._forget()

    def first_tokens(self) -> FirstTokens:
        """All waits so far."""
        return FirstTokens(bounds_s=BOUNDS_S, counts=tuple(self._waits), total_s=self._waited_s)

    def tokens_per_s(self) -> float:
        """Over the last seconds."""
        horizon = self.clock() - LATELY_S
        return sum(tokens for moment, tokens in tuple(self._lately) if moment >= horizon) / LATELY_S

    def _forget(self) -> None:
        horizon = self.clock() - LATELY_S
        while self._lately and self._lately[0][0] < horizon:
            self._lately.popleft()
