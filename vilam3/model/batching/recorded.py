"""Decoding replayed from recordings of the accelerator's work, since starting its kernels one by one takes longer than
they do.

A recording has fixed shapes and fixed places of its inputs: batches and lengths are rounded up, and rows that are too
many write to a place that nobody reads. Legend: B rows, L positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilam3.model.batching.network import Network, Said

SHORTEST = 256  # positions that the shortest recording attends to

Work = Callable[[], Tensor]
Record = Callable[[Work], Work]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inputs:
    """Where recordings of one batch size find what is fed."""

    ids_B: Tensor
    slots_B: Tensor
    positions_B: Tensor
    families_B: Tensor


class RecordedDecoding:
    """Feeds one token a row, for rows that lie in the first places."""

    def __init__(self, network: Network, *, slots: int, spare: int, record: Record) -> None:
        """Record as batches come; nothing is recorded yet.

        Args:
            network: What is recorded.
            slots: Most rows.
            spare: Place for the tokens of rows that are too many.
            record: Makes a replay of a piece of work; see `cuda_graph`.
        """
        self._network = network
        self._slots = slots
        self._spare = spare
        self._record = record
        self._inputs: dict[int, _Inputs] = {}
        self._replays: dict[tuple[int, int], Work] = {}

    def fits(self, said: Sequence[Said]) -> bool:
        """Whether these rows can be fed so."""
        return all(row.slot == index for index, row in enumerate(said))

    @torch.inference_mode()
    def run(self, said: Sequence[Said]) -> Tensor:
        """The next logits (B, V); see `Network.run`."""
        rows = _rounded(len(said), most=self._slots)
        length = _rounded(max(SHORTEST, 1 + max(row.position for row in said)), most=self._network.positions)
        inputs = self._inputs.get(rows) or self._new_inputs(rows)
        idle = rows - len(said)
        inputs.ids_B.copy_(torch.tensor([row.token for row in said] + [0] * idle))
        inputs.slots_B.copy_(torch.tensor([row.slot for row in said] + [self._spare] * idle))
        inputs.positions_B.copy_(torch.tensor([row.position for row in said] + [0] * idle))
        inputs.families_B.copy_(torch.tensor([row.family for row in said] + [0] * idle))
        if (rows, length) not in self._replays:
            self._replays[rows, length] = self._record(lambda: self._work(inputs, length))
        return self._replays[rows, length]()[: len(said)].clone()

    def _work(self, inputs: _Inputs, length: int) -> Tensor:
        families_B = inputs.families_B if self._network.has_families else None
        at = (inputs.slots_B, inputs.positions_B)
        return self._network.decode(inputs.ids_B, at, length=length, families_B=families_B)

    def _new_inputs(self, rows: int) -> _Inputs:
        made = [torch.zeros(rows, dtype=torch.long, device=self._network.model.device) for _ in range(4)]
        self._inputs[rows] = _Inputs(ids_B=made[0], slots_B=made[1], positions_B=made[2], families_B=made[3])
        return self._inputs[rows]


def cuda_graph(work: Work) -> Work:
    """Record work on an NVIDIA accelerator; its result lies at one place and is overwritten by the next replay."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types here
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up at the first call, which must not be recorded
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _rounded(number: int, *, most: int) -> int:
    """The next power of two, as far as there is room."""
    return min(most, 1 << (number - 1).bit_length())
