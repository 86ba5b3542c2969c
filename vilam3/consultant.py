"""A model with its experts, ready to be asked about a study, the same for the server, `vilam3 ask` and evaluation.

It knows no HTTP. Loading is lazy about heavy libraries, so that a command line can say what is wrong before it waits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from vilam3.data.render import views
from vilam3.data.sample import Dialect, Modality
from vilam3.data.study import Study, content_digest
from vilam3.dialogue.loop import Asking
from vilam3.dialogue.messages import Engine, Message
from vilam3.dialogue.panel import Ask
from vilam3.engines import EngineChoice, open_engine
from vilam3.errors import CheckpointError, ExpertError, NotFoundError
from vilam3.experts.protocol import ExpertCall, ExpertResult, Point, Watch, unwatched
from vilam3.experts.trigger import Grammar
from vilam3.model.families import AdapterConfig
from vilam3.settings import TrackingSettings
from vilam3.train.record import weights_digest

if TYPE_CHECKING:
    from vilam3.tracking import Version

REGISTRY_SCHEME = "models:/"
RUNS = Path("runs")
# What the published demo reads from the question where the file says nothing; in its order.
MODALITY_WORDS: Mapping[str, Modality] = {
    "cxr": "CXR",
    "chest x-ray": "CXR",
    "ct image": "CT",
    "mri": "MRI",
    "magnetic resonance imaging": "MRI",
    "ultrasound": "US",
}


class Experts(Protocol):
    """What is asked of a registry of experts."""

    def grammar(self, *, several: bool = False) -> Grammar:
        """Finds triggers of these experts."""
        ...

    def cards(self) -> str:
        """The model cards, as they open a question."""
        ...

    def model_of(self, name: str) -> str:
        """What tells apart the models that this name stands for over time; empty where that is not known."""
        ...

    def run(
        self,
        call: ExpertCall,
        study: Study,
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Run one expert on a study; `watch` is told how far it is and ends it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Consultant:
    """A language model and the experts it may consult.

    Attributes:
        engine: Generates replies.
        experts: The registry, or None to answer without.
        dialect: Wording the model was trained in.
        model_name: Shown in answers.
        model_digest: Of the weights, as the tracking store names them; empty where there is no checkpoint.
        adapters: Families of tasks that the model has adapters for; None where it has none.
    """

    engine: Engine
    experts: Experts | None = None
    dialect: Dialect = "demo"
    model_name: str = "vilam3"
    model_digest: str = ""
    adapters: AdapterConfig | None = None

    def task_of(self, task: str) -> str:
        """The family of a task that may have been trained; empty, which is the default, where none is known."""
        return "" if self.adapters is None else self.adapters.family_of(task) or ""

    def grammar(self, *, several: bool = False) -> Grammar:
        """Triggers of the experts at hand; without any, nothing is a trigger."""
        return Grammar({}) if self.experts is None else self.experts.grammar(several=several)

    def cards(self, *, with_experts: bool = True) -> str:
        """Model cards of the experts at hand; empty asks without experts."""
        return "" if self.experts is None or not with_experts else self.experts.cards()

    def asking(
        self,
        text: str,
        study: Study | None,
        *,
        slice_index: int | None = None,
        with_experts: bool = True,
        history: tuple[Message, ...] = (),
        max_rounds: int = 4,
    ) -> Asking:
        """A question about a study, rendered as the model was trained to see it.

        Args:
            text: As the user typed it.
            study: What it is about, or None.
            slice_index: Axial slice; None is the middle one.
            with_experts: False asks the model alone.
            history: What was said before.
            max_rounds: Most expert rounds.

        Raises:
            DataError: the slice is out of range.
        """
        return Asking(
            text=text,
            modality="Unknown" if study is None else study.modality,
            images=() if study is None else views(study, slice_index=slice_index),
            cards=self.cards(with_experts=with_experts),
            history=history,
            dialect=self.dialect,
            max_rounds=max_rounds,
        )

    def ask_on(self, study: Study | None, *, slice_index: int | None = None, points: Sequence[Point] = ()) -> Ask:
        """What runs an expert on this study; without a study or experts it says why it cannot."""

        def ask(call: ExpertCall, watch: Watch) -> ExpertResult:
            if self.experts is None:
                raise ExpertError(f"expert {call.expert}: no experts are loaded here; start with --experts DIR")
            if study is None:
                raise ExpertError(f"expert {call.expert}: the conversation has no images; send or name a study")
            return self.experts.run(call, study, slice_index=slice_index, points=points, watch=watch)

        return ask


def load(model: str, *, experts: Path | None = None, engine: EngineChoice | None = None) -> Consultant:
    """Load a checkpoint and the experts beside it.

    Args:
        model: A checkpoint directory, or ``models:/name@alias`` or ``models:/name/version`` of the tracking server.
        experts: Directory with the expert bundles, or None for a model alone.
        engine: What runs the model; our own where it is left out.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ExpertError: the experts' directory cannot be used.
        TrackingError: the tracking server cannot resolve the name.
    """
    path = resolve(model)
    from vilam3.model.checkpoint import read_config  # noqa: PLC0415 - torch takes seconds to import

    config = read_config(path)
    dialect = config.prompt_dialect
    return Consultant(
        engine=open_engine(path, engine or EngineChoice()),
        experts=None if experts is None else _experts(experts, dialect),
        dialect=dialect,
        model_digest=weights_digest(path),
        adapters=config.adapters,
    )


def _experts(folder: Path, dialect: Dialect) -> Experts:
    from vilam3.experts.registry import Registry  # noqa: PLC0415 - MONAI takes seconds, and not every image has it

    return Registry.load(folder, dialect=dialect)


def resolve(model: str) -> Path:
    """The local directory of a checkpoint given as path or as a registered model.

    Raises:
        CheckpointError: there is no such directory.
    """
    path = _registered(model) if model.startswith(REGISTRY_SCHEME) else Path(model)
    if not path.is_dir():
        raise CheckpointError(f"model {model}: no such directory; give a checkpoint directory or models:/name@alias")
    return path


def _registered(uri: str) -> Path:
    version = registered(uri)
    source = urlsplit(version.source)
    if source.scheme not in {"", "file"}:
        raise CheckpointError(
            f"{uri}: its weights are at {version.source}; bring them here by vilam3 model fetch and give the directory"
        )
    return Path(unquote(source.path))


def registered(uri: str, *, runs: Path = RUNS) -> "Version":
    """The version that ``models:/name@alias`` or ``models:/name/number`` names.

    Args:
        uri: As above.
        runs: Of the tracking store, where ``MLFLOW_TRACKING_URI`` names none.

    Raises:
        CheckpointError: it is not of this form.
        NotFoundError: there is no such version.
        TrackingError: the tracking store refused or is out of reach.
    """
    name, alias, number = _parse(uri)
    from vilam3.tracking import connect  # noqa: PLC0415 - mlflow takes seconds to import

    tracking = connect(experiment=TrackingSettings().experiment, registered_model=name, runs=runs)
    version = tracking.by_alias(alias) if alias else tracking.version(number)
    if version is None:
        raise NotFoundError(f"{uri}: no version has this alias; promote one, or name a version as models:/{name}/1")
    return version


def _parse(uri: str) -> tuple[str, str, int]:
    """Name, alias and number of ``models:/name@alias`` or ``models:/name/number``."""
    found = re.fullmatch(r"models:/+([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if found is None:
        raise CheckpointError(f"model {uri}: not understood; write models:/name@alias or models:/name/number")
    return found[1], found[2] or "", int(found[3] or 0)


def with_modality(study: Study, wanted: Modality | None, *, question: str) -> Study:
    """The study with the caller's modality, or for an unmarked picture the one the question names.

    Source: the published demo, which looks at the file first, then at these words of the question.
    """
    if wanted is not None:
        return _as_modality(study, wanted)
    if study.modality != "Unknown":
        return study
    lowered = question.lower()
    named = (modality for words, modality in MODALITY_WORDS.items() if words in lowered)
    return _as_modality(study, next(named, "Unknown"))


def _as_modality(study: Study, modality: Modality) -> Study:
    """The same images read as another modality; its digest is another too, because answers depend on it."""
    if study.modality == modality:
        return study
    pictures = [picture for picture in (study.radiograph_HW, study.picture_HWC) if picture is not None]
    digest = content_digest(modality=modality, volumes=study.volumes, pictures=pictures)
    return replace(study, modality=modality, digest=digest)
