"""The projector against its published facts and against plain loops."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from vilam3.model.config import ImageOrder, VilaConfig
from vilam3.model.projector import DownSampleBlock, Projector


def _slow_merge(
    patches: list[list[float]], grid: int, *, merge: int = 2, order: ImageOrder = "column"
) -> list[list[float]]:
    """Plain loops over blocks, in columns or in rows; absent patches are zeros."""
    width = len(patches[0])
    blocks = math.ceil(grid / merge)

    def patch(row: int, column: int) -> list[float]:
        return patches[row * grid + column] if row < grid and column < grid else [0.0] * width

    tokens = []
    for outer in range(blocks):
        for inner in range(blocks):
            block_row, block_column = (inner, outer) if order == "column" else (outer, inner)
            token: list[float] = []
            for row in range(merge):
                for column in range(merge):
                    token += patch(merge * block_row + row, merge * block_column + column)
            tokens.append(token)
    return tokens


def test_the_index_map_is_the_published_one() -> None:
    """27x27 patches numbered from 1: each token holds the patches that the published code puts there."""
    numbered = torch.arange(1, 730, dtype=torch.float32).reshape(1, 729, 1)
    tokens = DownSampleBlock()(numbered)[0]

    def at(row: int, column: int) -> int:
        return 27 * row + column + 1

    assert tokens.shape == (196, 4)
    assert tokens[0].tolist() == [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
    assert tokens[1].tolist() == [at(2, 0), at(2, 1), at(3, 0), at(3, 1)]
    assert tokens[14].tolist() == [at(0, 2), at(0, 3), at(1, 2), at(1, 3)]
    assert tokens[13].tolist() == [at(26, 0), at(26, 1), 0, 0]
    assert tokens[195].tolist() == [at(26, 26), 0, 0, 0]


@pytest.mark.parametrize("order", get_args(ImageOrder))
@pytest.mark.parametrize("merge", [2, 3])
@pytest.mark.parametrize("grid", [1, 2, 3, 4, 5, 9])
def test_merging_equals_plain_loops(grid: int, merge: int, order: ImageOrder) -> None:
    patches = torch.randn(2, grid * grid, 3, generator=torch.Generator().manual_seed(grid))
    merged = DownSampleBlock(merge=merge, order=order)(patches)
    for image in range(2):
        slow = _slow_merge(patches[image].tolist(), grid, merge=merge, order=order)
        assert torch.equal(merged[image], torch.tensor(slow))


@pytest.mark.usefixtures("seeded")
def test_the_projector_of_three_by_three_blocks_equals_plain_arithmetic(config: VilaConfig) -> None:
    """LayerNorm, linear, exact GELU, LayerNorm, linear, exact GELU, linear; the published places of its tensors."""
    three = replace(config, projector="mlp_downsample_3x3_fix", image_order="row")
    projector = Projector(three).eval()
    weights = {name: value.double() for name, value in projector.state_dict().items()}
    assert {name.split(".")[1] for name in weights} == {"1", "2", "4", "5", "7"}
    patches = torch.randn(1, three.vision.grid**2, three.vision.hidden_size)
    slow = _slow_merge(patches[0].tolist(), three.vision.grid, merge=3, order="row")
    rows = torch.tensor(slow, dtype=torch.float64)
    for norm, linear in (("layers.1", "layers.2"), ("layers.4", "layers.5")):
        centred = rows - rows.mean(-1, keepdim=True)
        normed = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
        wide = (normed * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]) @ weights[f"{linear}.weight"].T
        wide = wide + weights[f"{linear}.bias"]
        rows = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    expected = rows @ weights["layers.7.weight"].T + weights["layers.7.bias"]
    with torch.no_grad():
        assert (projector(patches)[0].double() - expected).abs().max() < 1e-5


@pytest.mark.usefixtures("seeded")
def test_the_whole_projector_equals_plain_arithmetic(config: VilaConfig) -> None:
    """LayerNorm, linear, exact GELU, linear, each written out in double precision."""
    projector = Projector(config).eval()
    patches = torch.randn(1, config.vision.grid**2, config.vision.hidden_size)
    weights = {name: value.double() for name, value in projector.state_dict().items()}
    slow = torch.tensor(_slow_merge(patches[0].tolist(), config.vision.grid), dtype=torch.float64)
    rows = []
    for token in slow:
        scaled = (token - token.mean()) / (((token - token.mean()) ** 2).mean() + 1e-5).sqrt()
        normed = scaled * weights["layers.1.weight"] + weights["layers.1.bias"]
        wide = weights["layers.2.weight"] @ normed + weights["layers.2.bias"]
        bent = torch.tensor([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in wide.tolist()])
        rows.append(weights["layers.4.weight"] @ bent.double() + weights["layers.4.bias"])
    with torch.no_grad():
        assert (projector(patches)[0].double() - torch.stack(rows)).abs().max() < 1e-5


@pytest.mark.parametrize(("name", "hidden"), [("3b", 2560), ("8b", 4096), ("13b", 5120)])
def test_published_shapes_and_tokens(name: str, hidden: int) -> None:
    """196 tokens per image; layers 1, 2 and 4 have the shapes of the published files."""
    config = VilaConfig.preset(name)  # type: ignore[arg-type]  # the parameter list is the type
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in Projector(config).state_dict().items()}
    assert config.tokens_per_image == 196
    assert shapes == {
        "layers.1.weight": (4608,),
        "layers.1.bias": (4608,),
        "layers.2.weight": (hidden, 4608),
        "layers.2.bias": (hidden,),
        "layers.4.weight": (hidden, hidden),
        "layers.4.bias": (hidden,),
    }
