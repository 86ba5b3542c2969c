"""The experts at hand: the published three and whatever other packages add through the entry-point group.

A package adds an expert by naming in the group ``vilam3.experts`` a function
``create(root: Path, *, dialect: Dialect, device: str) -> Expert``, under the name used in triggers. The function must
be cheap, because it is called for every expert when a registry opens: weights belong into the first `run`. It raises
`NotFoundError` where `root` does not hold its weights; the expert is then left out and the reason kept.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vilam3.data.sample import Dialect
from vilam3.data.study import Study
from vilam3.errors import Cancelled, ExpertError, NotFoundError, VilaM3Error
from vilam3.experts.protocol import Expert, ExpertCall, ExpertResult, Point, Watch, unwatched
from vilam3.experts.roster import Roster

GROUP = "vilam3.experts"


class Registry(Roster[Expert]):
    """Opened experts by name; they keep what they load, so keep the registry as long as questions come."""

    def __init__(self, experts: Iterable[Expert], *, absent: Mapping[str, str] | None = None) -> None:
        """Hold these experts.

        Args:
            experts: Opened experts, each name once.
            absent: Why others are not here, by name.
        """
        super().__init__(experts)
        self._models: dict[str, str] = {}
        self.absent: Mapping[str, str] = MappingProxyType(dict(absent or {}))

    @classmethod
    def load(
        cls,
        root: Path,
        *,
        dialect: Dialect = "demo",
        only: Collection[str] | None = None,
        device: str = "cpu",
    ) -> "Registry":
        """Open every expert whose weights are below `root`.

        Args:
            root: Holds ``vista3d/``, ``brats_mri_segmentation/``, ``cxr/`` and what added experts look for.
            dialect: Wording of the experts' texts.
            only: Names to open; None for all. Each of these must be there.
            device: Torch device name.

        Raises:
            NotFoundError: no such directory, nothing usable in it, or one of `only` is not there.
            CheckpointError: an expert is damaged.
            ExpertError: an added package fails to open its expert.
        """
        if not root.is_dir():
            raise NotFoundError(f"experts {root}: no such directory; give the one that holds vista3d/ and cxr/")
        points = {point.name: point for point in entry_points(group=GROUP)}
        wanted = sorted(points) if only is None else sorted(only)
        opened: list[Expert] = []
        absent: dict[str, str] = {}
        for name in wanted:
            if name not in points:
                raise NotFoundError(f"expert {name}: not installed; installed are {', '.join(sorted(points))}")
            try:
                opened.append(_open(points[name], root, dialect=dialect, device=device))
            except NotFoundError as error:
                if only is not None:
                    raise
                absent[name] = str(error)
        if not opened and only is None:
            raise NotFoundError(f"experts {root}: no expert is in there; put bundles there or run: vilam3 experts fit")
        return cls(opened, absent=absent)

    def run(
        self,
        call: ExpertCall,
        study: Study,
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
        cancelled: threading.Event | None = None,
    ) -> ExpertResult:
        """Run one expert on a study.

        Args:
            call: Which one, and its argument.
            study: What is asked about.
            slice_index: Axial slice of a volume; None is the middle one.
            points: Places that say what is sought, for experts that take them.
            watch: Told how far it is; may end it.
            cancelled: Set when nobody waits any more; ends it like `watch`.

        Raises:
            Cancelled: the caller has gone.
            ExpertError: no such expert, or it cannot serve this call.
            CheckpointError: its weights cannot be used.
            DataError: the slice is out of range.
        """
        watching = watch if cancelled is None else until(cancelled, watch)
        watching(0.0)
        expert = self.find(call.expert)
        result = expert.run(study, call.argument, slice_index=slice_index, points=points, watch=watching)
        self._models[call.expert] = result.provenance.model
        return result

    def model_of(self, name: str) -> str:
        """See `Roster.model_of`; known once the expert has run, because then its weights have been read."""
        return self._models.get(name, "")

    def warm_up(self) -> None:
        """Let every expert load and run once, so that the first caller waits for neither.

        Raises:
            CheckpointError: the weights of one cannot be used.
        """
        for expert in self._experts.values():
            expert.warm_up()

    def describe(self) -> list[dict[str, Any]]:
        """One entry for each expert for people and programs: name, modality, arguments, version, intended use."""
        return [_describe(self._experts[name]) for name in self.names]


def until(cancelled: threading.Event, watch: Watch = unwatched) -> Watch:
    """A watch that ends the work once `cancelled` is set, and else tells `watch`."""

    def watching(fraction: float, /) -> None:
        if cancelled.is_set():
            raise Cancelled("the caller has gone; nobody waits for this any more")
        watch(fraction)

    return watching


def _open(point: EntryPoint, root: Path, *, dialect: Dialect, device: str) -> Expert:
    try:
        create: Callable[..., Expert] = point.load()
        expert = create(root, dialect=dialect, device=device)
    except VilaM3Error:
        raise
    except Exception as error:  # an added package is foreign code
        raise ExpertError(
            f"expert {point.name}: {point.value} cannot open it ({type(error).__name__}: {error}); mend or uninstall it"
        ) from error
    if expert.name != point.name:
        raise ExpertError(
            f"expert {point.name}: {point.value} opens an expert called {expert.name}; the names must be the same"
        )
    return expert


def _describe(expert: Expert) -> dict[str, Any]:
    bundle, plan = getattr(expert, "bundle", None), getattr(expert, "plan", None)
    metadata = getattr(bundle, "metadata", {})
    return {
        "name": expert.name,
        "modality": expert.modality,
        "arguments": list(expert.arguments),
        "needs": list(getattr(expert, "needs", ())),  # experts whose weights it uses where they lie beside its own
        "version": getattr(bundle or plan, "version", ""),
        "weights_digest": getattr(bundle or expert, "known_digest", ""),
        "intended_use": metadata.get("intended_use", "") or getattr(plan, "intended_use", ""),
        "card": expert.card.strip(),
    }
