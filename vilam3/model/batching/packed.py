"""Linear layers in the form in which a processor multiplies them fastest.

A general matrix product rearranges the weights each time it is called; for the few rows of a decoding step that takes
as long as the product. oneDNN's products take weights that were rearranged once: half the time for up to 32 rows. It
is a copy, so it is made as far as a bound on memory allows, and only of plain layers and of the plain part of those
with adapters by task: one that anything else has taken the place of is called as it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vilam3.model.gated import Gated

Linear = Callable[[Tensor], Tensor]


class Packing:
    """Makes such copies until a bound is reached."""

    def __init__(self, most_bytes: int) -> None:
        """Begin with no copy.

        Args:
            most_bytes: For all copies together.
        """
        self._left_bytes = most_bytes
        has_library = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call] # torch has no types here
        self._is_possible = has_library and hasattr(torch.ops.mkldnn, "_linear_pointwise")

    def of(self, layer: nn.Module) -> Linear:
        """What computes the same as `layer`: itself, where no copy can or may be made.

        Later changes of its weights are not seen by a copy.
        """
        if not isinstance(layer, nn.Linear | Gated) or type(layer) not in {nn.Linear, Gated}:
            return layer
        if not self._takes(layer.weight):
            return layer
        product = self._copied(layer)
        if isinstance(layer, nn.Linear):
            return product
        return lambda rows_NI: product(rows_NI) + layer.added(rows_NI)

    def _copied(self, layer: nn.Linear | Gated) -> Linear:
        self._left_bytes -= layer.weight.nbytes
        with torch.inference_mode():
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())  # noqa: SLF001 - torch's own compiler emits these two; there is no public name
        bias = layer.bias

        def product(rows_NI: Tensor) -> Tensor:
            product_NO: Tensor = torch.ops.mkldnn._linear_pointwise(rows_NI, weight, bias, "none", [], "")  # noqa: SLF001 - see above
            return product_NO

        return product

    def _takes(self, weight: Tensor) -> bool:
        is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        return self._is_possible and is_plain and weight.nbytes <= self._left_bytes
