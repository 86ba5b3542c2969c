"""Last steps of the small bundles: scores to label ids."""

import numpy as np
import pytest
import torch

from vilam3.experts.postprocess import BratsIds, LabelIds, remove_small

LABELS = LabelIds(
    key="pred", channel_ids=[0, 1, 4, 26], hosts={"26": 1}, smallest_voxels={"26": 2}
)  # background, liver, pancreas, hepatic tumour


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([1, 26], [0, 1, 0, 26, 26]),
        ([26], [0, 0, 0, 26, 26]),
        ([1], [0, 1, 0, 1, 1]),
        ([4], [0, 0, 4, 0, 0]),
        (None, [0, 1, 4, 1, 1]),
        ([torch.tensor([1]), torch.tensor([26])], [0, 1, 0, 26, 26]),
    ],
)
def test_labels_nobody_asked_for_are_background_and_tumors_their_organ(prompt: object, expected: list[int]) -> None:
    """Without a prompt everything but tumours is asked for, as in the published bundle."""
    scores = torch.eye(4)[[0, 1, 2, 3, 3]].T.reshape(4, 5, 1, 1)
    data = LABELS({"pred": scores, "label_prompt": prompt})
    assert data["pred"].shape == (1, 5, 1, 1)
    assert data["pred"].flatten().tolist() == expected


def test_components_too_small_to_be_believed_become_their_host() -> None:
    winners_XYZ = np.array([3, 1, 1, 3, 3]).reshape(5, 1, 1)
    assert LABELS.ids(winners_XYZ, prompt=frozenset({1, 26})).ravel().tolist() == [1, 1, 1, 26, 26]


def test_corners_connect() -> None:
    ids_XYZ = np.zeros((3, 3, 3), dtype=np.uint8)
    ids_XYZ[0, 0, 0] = ids_XYZ[1, 1, 1] = 7
    remove_small(ids_XYZ, 7, smallest_voxels=2, instead=0)
    assert (ids_XYZ == 7).sum() == 2
    remove_small(ids_XYZ, 7, smallest_voxels=3, instead=5)
    assert (ids_XYZ == 5).sum() == 2


def test_regions_merge_in_the_published_order() -> None:
    """Channels are core, whole, enhancing; enhancing wins, then core, then the rest of the whole."""
    probabilities = torch.tensor([[0.1, 0.9, 0.9, 0.1], [0.9, 0.9, 0.9, 0.5], [0.1, 0.1, 0.9, 0.5]]).reshape(3, 4, 1, 1)
    data = BratsIds(key="pred", smallest_voxels=1)({"pred": probabilities})
    assert data["pred"].flatten().tolist() == [2, 1, 4, 0]
