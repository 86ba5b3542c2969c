"""Fits small experts to a corpus, in the layout of the published ones, in about a minute on two cores.

They exist so that the whole loop runs without downloads: the same loader, post-processing and texts, other weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vilam3.errors import DataError

ExpertName = Literal["vista3d", "brats", "cxr"]
Progress = Callable[[int, int, float], None]
FOLDERS: dict[str, str] = {"vista3d": "vista3d", "brats": "brats_mri_segmentation", "cxr": "cxr"}


def fit_expert(
    name: ExpertName,
    corpus: Path,
    out: Path,
    *,
    steps: int,
    seed: int,
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Fit one small expert and write it where `vilam3.experts.registry.Registry` finds it.

    The same corpus, steps and seed give the same weights on the same machine.

    Args:
        name: Which.
        corpus: Holds ``experts/<name>/`` with images, labels and ``split.json``.
        out: Directory of experts; the expert becomes ``vista3d/``, ``brats_mri_segmentation/`` or ``cxr/`` in it.
        steps: Optimizer steps.
        seed: Of initial weights, crops and noise.
        on_progress: Called with steps done, steps in all and loss.

    Returns:
        Measures on the validation cases.

    Raises:
        DataError: the corpus has no usable material for this expert.
        ArtifactError: the result cannot be written.
    """
    from vilam3.experts.fit_brats import fit_brats  # noqa: PLC0415 - torch takes seconds to import
    from vilam3.experts.fit_cxr import fit_cxr  # noqa: PLC0415 - likewise
    from vilam3.experts.fit_vista3d import fit_vista3d  # noqa: PLC0415 - likewise

    fits = {"vista3d": fit_vista3d, "brats": fit_brats, "cxr": fit_cxr}
    if name not in fits:
        raise DataError(f"expert {name}: cannot be fitted; choose {', '.join(fits)}")
    if steps < 1:
        raise DataError(f"steps={steps}: at least one is needed")
    material = corpus / "experts" / name
    return fits[name](material, out / FOLDERS[name], steps=steps, seed=seed, on_progress=on_progress or _ignore)


def _ignore(_done: int, _total: int, _loss: float) -> None:
    """Nobody watches."""
