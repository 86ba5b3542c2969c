"""Recordings of decoding say what the network says, rounded-up rows and positions included."""

import pytest
import torch

from vilam3.model.batching.cache import SlotCache
from vilam3.model.batching.network import Network, Piece, Said
from vilam3.model.batching.recorded import Record, RecordedDecoding, Work, cuda_graph
from vilam3.model.checkpoint import Loaded

SLOTS = 5
PROMPTS = ([3, 4, 5, 6], [7], [8, 9, 10])


def replayed(work: Work) -> Work:
    """Nothing is recorded: what is replayed is the same work on the same inputs."""
    return work


RECORDS = [
    pytest.param("cpu", replayed, id="processor"),
    pytest.param(
        "cuda",
        cuda_graph,
        id="accelerator",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")],
    ),
]


@pytest.mark.parametrize(("device", "record"), RECORDS)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_recording_says_what_the_network_says(loaded: Loaded, device: str, record: Record, rows: int) -> None:
    """Also while another request lies in a place that the rounded-up batch covers, and again with other tokens."""
    model = loaded.model.to(device)
    cache = SlotCache(loaded.config.llm, slots=SLOTS + 1, dtype=model.dtype, device=device)
    network = Network(model, cache)
    pieces = [Piece(slot=slot, start=0, ids=ids) for slot, ids in enumerate(PROMPTS)]
    network.run([], pieces)
    recorded = RecordedDecoding(network, slots=SLOTS, spare=SLOTS, record=record)
    for turn in range(3):
        said = [Said(slot=slot, position=len(PROMPTS[slot]) + turn, token=20 + turn + slot) for slot in range(rows)]
        assert recorded.fits(said)
        logits = recorded.run(said)
        assert (logits - network.run(said, [])).abs().max() < 1e-4
    before = cache.copy_out(2, 0, 3).clone()
    recorded.run([Said(slot=slot, position=9, token=1) for slot in range(2)])
    assert torch.equal(cache.copy_out(2, 0, 3), before)
    assert not recorded.fits([Said(slot=1, position=4, token=3)])
    loaded.model.to("cpu")
