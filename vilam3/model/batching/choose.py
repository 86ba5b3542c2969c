"""From logits to the next token of each row. Legend: B rows, V vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilam3.dialogue.messages import Sampling


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """What decides on one row's token.

    Attributes:
        sampling: As asked for.
        random: Of this request alone, so that a seed gives the same whoever else is decoded; None is greedy.
        num_said: Tokens it has said.
    """

    sampling: Sampling
    random: torch.Generator | None
    num_said: int


def random_of(sampling: Sampling) -> torch.Generator | None:
    """The source of chance of one request."""
    if sampling.temperature <= 0:
        return None
    random = torch.Generator(device="cpu")
    random.seed() if sampling.seed is None else random.manual_seed(sampling.seed)
    return random


def choose(logits_BV: Tensor, rows: Sequence[Row], *, stops: Tensor) -> list[int]:
    """One token for each row; no end token before the minimum that was asked for.

    Args:
        logits_BV: May be changed.
        rows: Of the logits, in order.
        stops: End tokens, on the device of the logits.
    """
    early = [index for index, row in enumerate(rows) if row.num_said < row.sampling.min_new_tokens]
    if early:
        held_B = torch.tensor(early, device=logits_BV.device)
        logits_BV[held_B[:, None], stops] = float("-inf")
    tokens: list[int] = logits_BV.argmax(dim=-1).tolist()
    for index, row in enumerate(rows):
        if row.random is not None:
            tokens[index] = _sample(logits_BV[index].float().cpu(), row.sampling, row.random)
    return tokens


def _sample(logits_V: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """Draw from the smallest set of tokens whose probabilities reach `top_p`."""
    probabilities, order = (logits_V / sampling.temperature).softmax(dim=-1).sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    kept[0] = probabilities[0]
    return int(order[torch.multinomial(kept, 1, generator=random)])
