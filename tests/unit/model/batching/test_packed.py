"""Copies of weights in another form: the same products, within a bound on memory, and never of what is not plain."""

import pytest
import torch
from torch import nn

from vilam3.model.batching.packed import Packing
from vilam3.model.families import AdapterConfig
from vilam3.model.gated import Gated, told_families

PLENTY = 2**30


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 32, 33, 300])
def test_a_copy_multiplies_as_the_layer_does(rows: int, has_bias: bool) -> None:
    torch.manual_seed(rows)
    layer = nn.Linear(96, 160, bias=has_bias)
    product = Packing(PLENTY).of(layer)
    rows_NI = torch.randn(rows, 96)
    assert product is not layer
    with torch.inference_mode():
        torch.testing.assert_close(product(rows_NI), layer(rows_NI), rtol=1e-5, atol=1e-5)


def test_of_a_layer_with_adapters_the_plain_part_is_copied() -> None:
    torch.manual_seed(7)
    config = AdapterConfig(
        families={"answer": ("a",), "report": ("b",)}, default="answer", experts=2, rank=3, alpha=6.0
    )
    layer = Gated(nn.Linear(96, 160), config)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.1)
    product = Packing(PLENTY).of(layer)
    rows_NI = torch.randn(5, 96)
    assert product is not layer
    with torch.inference_mode(), told_families(torch.tensor([0, 1, 1, 0, 1])):
        torch.testing.assert_close(product(rows_NI), layer(rows_NI), rtol=1e-4, atol=1e-4)


def test_copies_are_made_as_far_as_memory_is_given() -> None:
    first, second, small = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(8, 8)
    packing = Packing(first.weight.nbytes + small.weight.nbytes)
    assert packing.of(first) is not first
    assert packing.of(second) is second, "there is no room for it"
    assert packing.of(small) is not small, "for this one there is"


def test_what_is_no_plain_layer_in_full_precision_is_called_as_it_is() -> None:
    class Adapted(nn.Linear):
        """As an adapter makes of a layer."""

    for layer in (Adapted(8, 8), nn.Linear(8, 8).to(torch.bfloat16), nn.Sequential(nn.Linear(8, 8))):
        assert Packing(PLENTY).of(layer) is layer
