"""Networks of the chest x-ray ensemble, in plain torch, with the parameter names of the published weights.

`DenseNet` is DenseNet-BC (Huang et al., 2017, https://arxiv.org/abs/1608.06993) for one grey channel. Names of
parameters are those of torchvision and torchxrayvision. torchxrayvision itself is not imported: it takes seconds,
silences all warnings of the process and prints to standard output.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

BOTTLENECK = 4  # width of the 1x1 convolution in units of the growth rate


class DenseNet(nn.Module):
    """Feature blocks, global average, linear classifier; returns logits."""

    def __init__(
        self, *, num_labels: int, growth_rate: int, block_config: Sequence[int], num_init_features: int
    ) -> None:
        """Build with random weights.

        Args:
            num_labels: Width of the output.
            growth_rate: Channels each layer adds.
            block_config: Layers in each block.
            num_init_features: Channels after the first convolution.
        """
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(1, num_init_features, kernel_size=7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(num_init_features),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        width = num_init_features
        for number, num_layers in enumerate(block_config, start=1):
            layers[f"denseblock{number}"] = _block(width, num_layers, growth_rate)
            width += num_layers * growth_rate
            if number < len(block_config):
                layers[f"transition{number}"] = _transition(width, width // 2)
                width //= 2
        layers["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits (N, labels) of grey images in [-1024, 1024]."""
        features_NCHW = functional.relu(self.features(pixels_NCHW), inplace=True)
        logits: torch.Tensor = self.classifier(functional.adaptive_avg_pool2d(features_NCHW, 1).flatten(1))
        return logits


class _DenseLayer(nn.Sequential):
    """Adds its own channels behind those it is given."""

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        added_NCHW: torch.Tensor = super().forward(x_NCHW)  # type: ignore[no-untyped-call]  # torch types no Sequential
        return torch.cat([x_NCHW, added_NCHW], dim=1)


def _block(width: int, num_layers: int, growth_rate: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (f"denselayer{number}", _layer(width + (number - 1) * growth_rate, growth_rate))
            for number in range(1, num_layers + 1)
        )
    )


def _layer(width: int, growth_rate: int) -> _DenseLayer:
    inner = BOTTLENECK * growth_rate
    return _DenseLayer(
        OrderedDict(
            norm1=nn.BatchNorm2d(width),
            relu1=nn.ReLU(inplace=True),
            conv1=nn.Conv2d(width, inner, kernel_size=1, bias=False),
            norm2=nn.BatchNorm2d(inner),
            relu2=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(inner, growth_rate, kernel_size=3, padding=1, bias=False),
        )
    )


def _transition(width: int, narrower: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(width, narrower, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(kernel_size=2, stride=2),
        )
    )


def build_network(architecture: Mapping[str, Any], *, num_labels: int) -> nn.Module:
    """An untrained network of the ensemble.

    Args:
        architecture: ``{"kind": "densenet", "growth_rate", "block_config", "num_init_features"}`` or
            ``{"kind": "resnet50"}``.
        num_labels: Width of the output.

    Raises:
        KeyError: an unknown kind or a missing key.
    """
    settings = dict(architecture)
    builders: dict[str, Callable[..., nn.Module]] = {"densenet": DenseNet, "resnet50": _resnet50}
    return builders[settings.pop("kind")](num_labels=num_labels, **settings)


def _resnet50(*, num_labels: int) -> nn.Module:
    from torchvision.models import resnet50  # noqa: PLC0415 - only the published ensemble has one

    network: nn.Module = resnet50(weights=None, num_classes=num_labels)
    network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return network
