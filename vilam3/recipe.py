"""What a run is, read from TOML; knows no torch, MLflow, Ray or KFP.

Files compose left to right: a later file overrides single keys of the earlier ones. A recipe is resolved once; from
then on it travels as one JSON text (`Recipe.resolved_json`, `parse_resolved`).
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, PositiveInt, ValidationError
from pydantic_core import ErrorDetails

from vilam3.data.phantom.settings import PhantomSettings
from vilam3.errors import RecipeError
from vilam3.settings import (
    STAGES,
    EvaluationSettings,
    ExpertSettings,
    GateSettings,
    ModelSettings,
    ResourceSettings,
    Settings,
    Stage,
    StageName,
    Stages,
    TrackingSettings,
)

Table = dict[str, Any]
KeyPath = tuple[str, ...]
Place = tuple[str | int, ...]
Origins = dict[tuple[str | int, ...], Path]
SHOWN_CHARACTERS = 60
RIVALS = {"epochs": "steps", "steps": "epochs"}  # of which a later file's replaces an earlier one's
COMPILED = ("stage_names", "resources")  # what the steps of a compiled pipeline were made from


class Recipe(Settings):
    """Everything a run depends on, apart from the data."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    """Name of the recipe: lower case, digits, full stops and dashes."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 20240723
    """Everything random follows from it."""
    threads: PositiveInt = 2
    """CPU threads of a training process, each with a part (`micro_batch`) of the batch; they change the time only."""
    model: ModelSettings
    """The architecture."""
    corpus: PhantomSettings | None = None
    """The synthetic corpus; absent where the data comes from elsewhere."""
    stages: Stages
    """The training stages."""
    experts: ExpertSettings = ExpertSettings()
    """The small experts."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """The accuracy tables."""
    gate: GateSettings = GateSettings()
    """The gate before promotion."""
    resources: ResourceSettings = ResourceSettings()
    """Cluster resources."""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow names."""

    @property
    def stage_names(self) -> tuple[StageName, ...]:
        """Stages of this recipe, in order."""
        return tuple(name for name in STAGES if getattr(self.stages, name) is not None)

    def stage(self, name: str) -> Stage:
        """One stage.

        Raises:
            RecipeError: the recipe has no such stage.
        """
        found: Stage | None = getattr(self.stages, name, None) if name in STAGES else None
        if found is None:
            raise RecipeError(
                f"recipe {self.name}: no stage {name!r}; it has {', '.join(self.stage_names)}{_nearest(name, STAGES)}"
            )
        return found

    def starts_from_nothing(self, stage: str) -> bool:
        """Whether a stage may do without a checkpoint: stage 1 of a network that the recipe describes."""
        return stage == STAGES[0] and self.model.vocab_size is not None

    def resolved_json(self) -> str:
        """The whole recipe, defaults included, as one canonical JSON text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of `resolved_json`."""
        return hashlib.sha256(self.resolved_json().encode()).hexdigest()


def load(paths: Sequence[Path]) -> Recipe:
    """Read TOML files, or the JSON in which runs keep their recipe, compose them left to right and check the result.

    Tables merge key by key; every other value of a later file replaces the earlier one.

    Raises:
        RecipeError: a file cannot be read, or a key or value is not allowed; names file, key path, value and rule.
    """
    if not paths:
        raise RecipeError("recipe: no file given; pass at least one TOML file")
    merged: Table = {}
    origins: Origins = {}
    for path in paths:
        _merge(merged, _read(path), origins=origins, path=path)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, origins=origins, source=", ".join(map(str, paths))) from error


def parse_resolved(text: str) -> Recipe:
    """Read the text of `Recipe.resolved_json` back.

    Raises:
        RecipeError: it is not JSON or not a recipe.
    """
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error, origins={}, source="resolved recipe") from error


def overridden(recipe: Recipe, overrides: str) -> Recipe:
    """A recipe with some of its values replaced, for one run of a pipeline that was compiled for it.

    Args:
        recipe: Resolved.
        overrides: TOML, such as ``stages.stage4_expert.learning_rate = 1e-5``; may be empty.

    Raises:
        RecipeError: it is not TOML, a value is not allowed, or one that the pipeline was compiled with differs.
    """
    source = Path("overrides")
    merged, origins = recipe.model_dump(mode="json", exclude_none=True), Origins()
    _merge(merged, _parsed(overrides, source), origins=origins, path=source)
    try:
        changed = Recipe.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, origins=origins, source="overrides") from error
    for what in COMPILED:
        if getattr(changed, what) != getattr(recipe, what):
            raise RecipeError(
                f"overrides: {what} are fixed when a pipeline is compiled; compile it from another recipe"
            )
    return changed


def _read(path: Path) -> Table:
    try:
        return _parsed(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise RecipeError(f"recipe {path}: cannot be read ({error.strerror}); give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def _parsed(text: str, path: Path) -> Table:
    try:
        return _resolved_table(text) if path.suffix == ".json" else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {path}: not valid TOML: {error}; mend that line") from error
    except ValueError as error:
        raise RecipeError(f"recipe {path}: not a JSON object ({error}); give a recipe as a run keeps it") from error


def _resolved_table(text: str) -> Table:
    """A resolved recipe, as runs keep theirs."""
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError(type(table).__name__)  # noqa: TRY004 - as other texts that are no recipe
    return table


def _merge(into: Table, table: Table, *, origins: Origins, path: Path, prefix: KeyPath = ()) -> None:
    for key, value in table.items():
        place = (*prefix, key)
        origins[place] = path
        here = into.get(key)
        if isinstance(value, dict) and isinstance(here, dict):
            _merge(here, value, origins=origins, path=path, prefix=place)
        elif isinstance(value, dict):
            into[key] = {}
            _merge(into[key], value, origins=origins, path=path, prefix=place)
        else:
            if key in RIVALS and RIVALS[key] not in table:
                into.pop(RIVALS[key], None)
            into[key] = value


def _explain(error: ValidationError, *, origins: Origins, source: str) -> RecipeError:
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")  # a typo explains a missing key
    place = first["loc"]
    named = next((str(origins[place[:n]]) for n in range(len(place), 0, -1) if place[:n] in origins), source)
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return RecipeError(f"recipe {named}: {_problem(first)}{rest}")


def _problem(problem: ErrorDetails) -> str:
    place, value, kind = problem["loc"], problem["input"], problem["type"]
    rule = problem["msg"].removeprefix("Value error, ")
    path = _dotted(place)
    if kind == "extra_forbidden":
        known = _keys_beside(place)
        return f"{path}={_short(value)}: unknown key{_nearest(str(place[-1]), known)}; valid are {', '.join(known)}"
    if kind == "missing":
        return f"{path}: this key is required; add it"
    if isinstance(value, dict):
        return f"{path}: {rule}" if path else rule
    return f"{path}={_short(value)}: {rule}"


def _keys_beside(place: Place) -> tuple[str, ...]:
    model: type[BaseModel] = Recipe
    for key in place[:-1]:
        field = model.model_fields.get(str(key))
        inner = _model_within(field.annotation) if field else None
        model = inner or model
    return tuple(model.model_fields)


def _model_within(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_within(part))), None)


def _dotted(place: Place) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
