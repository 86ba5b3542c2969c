"""The loss over a large vocabulary: the plain one in value and gradient, in pieces."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vilam3.model import losses
from vilam3.model.config import IGNORED_LABEL
from vilam3.model.losses import target_loss

VOCABULARY, WIDTH = 50, 8


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch ships it untyped
    """Remembers the largest tensor that any operation gives."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204, D105 - torch's own interface
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.fixture
def case() -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(1)
    labels_BL = torch.randint(0, VOCABULARY, (3, 40))
    labels_BL[torch.rand(3, 40) < 0.3] = IGNORED_LABEL
    return nn.Linear(WIDTH, VOCABULARY, bias=False), torch.randn(3, 40, WIDTH, requires_grad=True), labels_BL


def test_pieces_give_the_loss_and_gradients_of_the_whole_without_ever_holding_all_logits(
    case: tuple[nn.Linear, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden_BLH, labels_BL = case
    whole, num_targets = target_loss(head, hidden_BLH, labels_BL)
    expected = torch.autograd.grad(whole, [hidden_BLH, head.weight])
    assert num_targets == int((labels_BL[:, 1:] != IGNORED_LABEL).sum())

    monkeypatch.setattr(losses, "CHUNK_NUMEL", 7 * VOCABULARY)
    with Largest() as largest:
        pieces, again = target_loss(head, hidden_BLH, labels_BL)
        found = torch.autograd.grad(pieces, [hidden_BLH, head.weight])
    assert again == num_targets
    assert largest.numel < num_targets * VOCABULARY / 2
    torch.testing.assert_close(pieces, whole)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_targets_has_no_loss(case: tuple[nn.Linear, Tensor, Tensor]) -> None:
    head, hidden_BLH, labels_BL = case
    total, num_targets = target_loss(head, hidden_BLH, torch.full_like(labels_BL, IGNORED_LABEL))
    assert (float(total.detach()), num_targets) == (0.0, 0)
