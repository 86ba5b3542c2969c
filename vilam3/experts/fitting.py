"""Fits small experts to a corpus, in the layout of the published ones, in about a minute on two cores.

They exist so that the whole loop runs without downloads: the same loader, post-processing and texts, other weights. An
expert that can be fitted names a `Fit` in the entry-point group ``vilam3.fits``, under its name in lower case.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from vilam3.errors import DataError

GROUP = "vilam3.fits"
Progress = Callable[[int, int, float], None]


class Run(Protocol):
    """Fits one expert."""

    def __call__(self, folder: Path, out: Path, *, steps: int, seed: int, on_progress: Progress) -> dict[str, float]:
        """Fit to the material in `folder`, write to `out`, return measures on held-out cases."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How an expert is fitted.

    Attributes:
        folder: Its name in a directory of experts.
        run: Does it.
    """

    folder: str
    run: Run


def fittable() -> tuple[str, ...]:
    """Names of the experts that can be fitted."""
    return tuple(sorted(point.name for point in entry_points(group=GROUP)))


def fit_of(name: str) -> Fit:
    """How an expert is fitted; imports its libraries.

    Raises:
        DataError: it cannot be.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise DataError(f"expert {name}: cannot be fitted; choose {', '.join(sorted(points))}")
    fit: Fit = points[name].load()
    return fit


def fit_expert(
    name: str,
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
        name: Which, as in `fittable`.
        corpus: Holds ``experts/<name>/`` with images, labels and ``split.json``.
        out: Directory of experts; the expert becomes a folder in it, such as ``vista3d/``.
        steps: Optimizer steps.
        seed: Of initial weights, crops and noise.
        on_progress: Called with steps done, steps in all and loss.

    Returns:
        Measures on the validation cases.

    Raises:
        DataError: the corpus has no usable material for this expert.
        ArtifactError: the result cannot be written.
    """
    fit = fit_of(name)
    if steps < 1:
        raise DataError(f"steps={steps}: at least one is needed")
    material = corpus / "experts" / name
    return fit.run(material, out / fit.folder, steps=steps, seed=seed, on_progress=on_progress or _ignore)


def _ignore(_done: int, _total: int, _loss: float) -> None:
    """Nobody watches."""
