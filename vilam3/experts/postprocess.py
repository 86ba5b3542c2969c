"""Last steps of our small segmentation bundles, named by their configs: network output to published label ids.

They work on arrays with one channel axis in front, at the resolution of the network, before its inversion.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

Ids = NDArray[np.uint8]
FACES_EDGES_CORNERS = np.ones((3, 3, 3), dtype=bool)


class LabelIds:
    """Turns class scores into label ids, for the labels asked for.

    The class with the greatest score wins. A tumour that nobody asked for counts as the organ around it; any other
    label that nobody asked for is background. Without a prompt all are asked for but tumours.
    """

    def __init__(
        self, *, key: str, channel_ids: Sequence[int], hosts: Mapping[str, int], smallest_voxels: Mapping[str, int]
    ) -> None:
        """Say what the channels mean.

        Args:
            key: Entry of the dictionary with the scores, shape (classes, X, Y, Z).
            channel_ids: Label id of each channel; the first is 0, background.
            hosts: Tumour id (JSON: text) to the id of its organ.
            smallest_voxels: Label id to the least size of a connected component; smaller ones become the host.
        """
        self._key = key
        self._channel_ids = np.asarray(channel_ids, dtype=np.uint8)
        self._hosts = {int(tumor): host for tumor, host in hosts.items()}
        self._smallest = {int(label_id): size for label_id, size in smallest_voxels.items()}

    @property
    def num_channels(self) -> int:
        """Classes that are scored."""
        return len(self._channel_ids)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the scores by label ids, shape (1, X, Y, Z)."""
        scores = data[self._key]
        winners = scores.argmax(0, keepdim=True)
        ids_XYZ = self.ids(np.asarray(winners[0].cpu()), prompt=_prompt(data.get("label_prompt")))
        labels = torch.as_tensor(ids_XYZ.astype(np.float32))[None]
        return {**data, self._key: _like(scores, labels)}

    def ids(self, winners_XYZ: NDArray[Any], *, prompt: frozenset[int] | None) -> Ids:
        """Label ids of winning channels.

        Args:
            winners_XYZ: Index of the winning channel.
            prompt: Label ids asked for, or None.
        """
        ids_XYZ: Ids = self._channel_ids[winners_XYZ]
        for label_id, size in self._smallest.items():
            remove_small(ids_XYZ, label_id, smallest_voxels=size, instead=self._hosts.get(label_id, 0))
        asked = frozenset(self._channel_ids.tolist()) - set(self._hosts) if prompt is None else prompt
        table = np.arange(256, dtype=np.uint8)
        for label_id in self._channel_ids.tolist():
            if label_id not in asked:
                host = self._hosts.get(label_id, 0)
                table[label_id] = host if host in asked else 0
        return table[ids_XYZ]


class BratsIds:
    """Turns sigmoid scores of tumour core, whole tumour and enhancing tumour into BraTS label ids, as published."""

    def __init__(self, *, key: str, smallest_voxels: int, threshold: float = 0.5) -> None:
        """Say what to keep.

        Args:
            key: Entry of the dictionary with the probabilities, shape (3, X, Y, Z).
            smallest_voxels: Least size of a connected component of each region.
            threshold: Probability from which a voxel belongs to a region.
        """
        self._key = key
        self._smallest = smallest_voxels
        self._threshold = threshold

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the probabilities by label ids, shape (1, X, Y, Z)."""
        probabilities = data[self._key]
        ids_XYZ = self.ids(np.asarray(probabilities.cpu()))
        return {**data, self._key: _like(probabilities, torch.as_tensor(ids_XYZ.astype(np.float32))[None])}

    def ids(self, probabilities_CXYZ: NDArray[Any]) -> Ids:
        """Enhancing tumour is 4, else core is 1, else whole tumour is 2."""
        regions = (probabilities_CXYZ > self._threshold).astype(np.uint8)
        for region in regions:
            remove_small(region, 1, smallest_voxels=self._smallest, instead=0)
        core, whole, enhancing = regions
        ids_XYZ: Ids = np.where(enhancing, 4, np.where(core, 1, np.where(whole, 2, 0))).astype(np.uint8)
        return ids_XYZ


def remove_small(ids_XYZ: Ids, label_id: int, *, smallest_voxels: int, instead: int) -> None:
    """Overwrite, in place, the connected components of a label that are too small to be believed."""
    is_label = ids_XYZ == label_id
    places = [np.flatnonzero(is_label.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not all(map(len, places)):
        return
    box = tuple(slice(int(place[0]), int(place[-1]) + 1) for place in places)
    components, count = label(is_label[box], structure=FACES_EDGES_CORNERS, output=np.int32)
    for component, place in enumerate(find_objects(components, count), start=1):
        inside = components[place] == component
        if np.count_nonzero(inside) < smallest_voxels:
            ids_XYZ[box][place][inside] = instead


def _prompt(prompt: Any) -> frozenset[int] | None:  # noqa: ANN401 - a list of numbers or of one-element tensors, as collated
    if prompt is None:
        return None
    return frozenset(int(value) for value in np.asarray(prompt).ravel().tolist())


def _like(scores: Any, labels: torch.Tensor) -> Any:  # noqa: ANN401 - MONAI's tensor carries the geometry
    """The labels with the geometry and transform history of the scores, where they have one."""
    if not hasattr(scores, "meta"):
        return labels
    from monai.data import MetaTensor  # noqa: PLC0415 - seconds to import

    return MetaTensor(labels, meta=scores.meta, applied_operations=scores.applied_operations)
