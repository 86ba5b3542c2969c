"""From a finished checkpoint to a registered version, and from a passed gate to the champion."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from vilam3.errors import CheckpointError, DataError, GateError, NotFoundError
from vilam3.evaluate.gate import GateDecision
from vilam3.evaluate.results import Comparison
from vilam3.model.digests import DIGESTS, verify_digests
from vilam3.objects import open_store
from vilam3.train.record import (
    FINAL,
    MODELS,
    STAGE_FILE,
    Checkpoint,
    StageResult,
    final_loss,
    parse_stage,
    read_stage,
    weights_digest,
)

if TYPE_CHECKING:  # mlflow takes seconds to import
    from vilam3.tracking import Tracking, Version

CHAMPION = "champion."  # prefix of the champion's numbers in a gate decision
TOLERANCE = 1e-9
S3 = "s3://"


def register_checkpoint(
    tracking: "Tracking", checkpoint: Path | str, *, comparison: Comparison | None = None
) -> "Version":
    """Make a checkpoint a version and the challenger; the same weights again give the same version.

    Args:
        tracking: The store.
        checkpoint: Output of a training stage, or one of the earlier checkpoints kept in it, as a path or where a gang
            left it in S3; its weights stay there.
        comparison: Of these weights; its numbers go with the version.

    Raises:
        CheckpointError: this is no finished stage, or its weights are not as they were written.
        DataError: the comparison is of other weights.
    """
    found = _stored(checkpoint) if str(checkpoint).startswith(S3) else _local(Path(checkpoint))
    if comparison is not None and comparison.provenance.weights != found.digest:
        raise DataError(
            f"comparison: is of weights {comparison.provenance.weights[:12]}, but {checkpoint} holds "
            f"{found.digest[:12]}; evaluate this checkpoint"
        )
    numbers = {} if comparison is None else comparison.numbers()
    return tracking.register(replace(found, metrics={**numbers, **found.metrics}))


def _local(place: Path) -> Checkpoint:
    is_kept = place.absolute().parent.name == MODELS
    stage = read_stage(place.absolute().parent.parent if is_kept else place)
    verify_digests(place)
    step = _step(place.name) if is_kept else stage.weights_step
    return _checkpoint(stage, step=step, source=place.absolute().as_uri(), digest=weights_digest(place))


def _stored(uri: str | Path) -> Checkpoint:
    """Only the records are read, whatever the weights weigh; that the weights are there is seen in the listing."""
    above, _, name = str(uri).rstrip("/").rpartition("/")
    is_kept = above.rpartition("/")[2] == MODELS
    store, run = open_store(above), open_store(above.removesuffix(f"/{MODELS}"))
    try:
        record = store.get(f"{name}/{DIGESTS}")
        stage = parse_stage(run.get(f"{FINAL if is_kept else name}/{STAGE_FILE}"), where=str(uri))
        expected = set(json.loads(record))
    except (NotFoundError, ValueError) as error:
        raise CheckpointError(f"{uri}: is no finished stage ({error}); wait until its training has finished") from error
    present = {entry.key.removeprefix(f"{name}/") for entry in store.entries(name)}
    if missing := sorted(expected - present):
        raise CheckpointError(f"{uri}: lacks {missing[0]}; train the stage again, or copy it again")
    step = _step(name) if is_kept else stage.weights_step
    return _checkpoint(stage, step=step, source=str(uri).rstrip("/"), digest=hashlib.sha256(record).hexdigest())


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _checkpoint(stage: StageResult, *, step: int, source: str, digest: str) -> Checkpoint:
    return Checkpoint(
        name=f"{stage.recipe}-{stage.name}-{step}",
        step=step,
        source=source,
        digest=digest,
        tags={
            "recipe": stage.recipe,
            "stage": stage.name,
            "inputs_digest": stage.inputs_digest,
            "dataset_digest": stage.inputs["corpus"],
        },
        metrics={"loss": final_loss(stage.losses[:step])},
    )


def promote_gated(
    tracking: "Tracking", decision: GateDecision, *, number: int | None = None, expected_champion: int | None = None
) -> "Version":
    """Make a version the champion, if the gate's decision about it says so.

    Args:
        tracking: The store.
        decision: Of the gate.
        number: Version; the challenger by default.
        expected_champion: Version the gate compared it with; by default the champion there is now.

    Raises:
        GateError: the gate failed, or its decision is about another model or another champion.
        NotFoundError: there is no such version.
        TrackingError: somebody else promoted in between.
    """
    version = _candidate(tracking, number)
    if not decision.passed:
        reasons = "; ".join(decision.reasons) or "no reason given"
        raise GateError(f"version {version.number} is not promoted, the gate failed: {reasons}")
    _check_subject(version, decision)
    champion = tracking.by_alias("champion")
    if champion is not None and champion.number == version.number:
        return champion
    if champion is not None and not any(name.startswith(CHAMPION) for name in decision.numbers):
        raise GateError(
            f"version {version.number} is not promoted: the gate did not compare it with the champion, version "
            f"{champion.number}; run the gate again"
        )
    if expected_champion is None and champion is not None:
        expected_champion = champion.number
    return tracking.promote(version.number, expected_champion=expected_champion)


def read_decision(path: Path) -> GateDecision:
    """The gate's decision as JSON.

    Raises:
        GateError: there is none, or it is of another form: without a decision nothing is promoted.
    """
    try:
        return GateDecision.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GateError(f"{path}: no gate decision ({error.strerror}); run the gate first") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise GateError(f"{path}: not a gate decision ({first['msg']}); run the gate again") from error


def _candidate(tracking: "Tracking", number: int | None) -> "Version":
    if number is not None:
        return tracking.version(number)
    challenger = tracking.by_alias("challenger") or tracking.by_alias("champion")
    if challenger is None:
        raise NotFoundError("registered model: no version is the challenger; register one first")
    return challenger


def _check_subject(version: "Version", decision: GateDecision) -> None:
    """The decision must carry the very numbers the version was registered with."""
    own = {name: value for name, value in decision.numbers.items() if not name.startswith(CHAMPION)}
    shared = [name for name in version.numbers if name in own]
    if not shared:
        raise GateError(
            f"version {version.number} is not promoted: it was registered without an evaluation; register it with one"
        )
    for name in shared:
        if not math.isclose(version.numbers[name], own[name], abs_tol=TOLERANCE):
            raise GateError(
                f"version {version.number} is not promoted: the gate saw {name}={own[name]:g}, the version has "
                f"{version.numbers[name]:g}; run the gate on this version"
            )
