"""Digests of corpora and checkpoints, from what their own manifests state: nothing large is read."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from vilam3.contents import contents_of, corpus_manifest, read
from vilam3.errors import CheckpointError, NotFoundError, UserError
from vilam3.intake.event import Digests, Event, Places
from vilam3.model.digests import DIGESTS

MODEL = re.compile(r"models:/+(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
REMOTE = ("s3://", "models:/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an event's places hold now.

    Attributes:
        digests: Of their content.
        places: The same, with a model of the tracking store put as the place of its weights.
        samples: By data set, as the corpus states; empty where it does not.
    """

    digests: Digests
    places: Places
    samples: Mapping[str, int]


def look(event: Event) -> Seen:
    """Read the manifests of an event's places.

    Raises:
        RecipeError: the recipe is none.
        DataError: there is no corpus that states its digest, or no checkpoint.
        CheckpointError: the model is not understood.
        UserError: a place is not understood.
        ArtifactError: the store refuses or is out of reach.
        TrackingError: likewise the tracking store.
    """
    recipe = event.resolved().digest
    base, digest = _base(event.places.base_checkpoint)
    manifest = corpus_manifest(event.places.corpus)
    samples = manifest.get("samples")
    return Seen(
        digests=Digests(data=manifest["digest"], recipe=recipe, base=digest),
        places=event.places.model_copy(update={"base_checkpoint": base}),
        samples={name: int(count) for name, count in samples.items()} if isinstance(samples, dict) else {},
    )


def check_remote(places: Mapping[str, str]) -> None:
    """Let callers from elsewhere name only what a store holds, and no file of the machine that answers.

    Raises:
        UserError: a place is none of these.
    """
    for name, place in places.items():
        if not place.startswith(REMOTE):
            raise UserError(f"{name}: must be in the object store; write s3://bucket/folder")


def _base(place: str) -> tuple[str, str]:
    """Where the weights are, and their digest."""
    if place.startswith("models:/"):
        return _registered(place)
    try:
        return place, hashlib.sha256(read(place, DIGESTS)).hexdigest()
    except NotFoundError:  # a published one carries none: names, sizes and times are what is known
        return place, contents_of({"base": place})


def _registered(uri: str) -> tuple[str, str]:
    from vilam3.settings import TrackingSettings  # noqa: PLC0415 - mlflow takes seconds to import
    from vilam3.tracking import connect  # noqa: PLC0415 - likewise
    from vilam3.workplace import runs_folder  # noqa: PLC0415 - likewise

    found = MODEL.fullmatch(uri)
    if found is None:
        raise CheckpointError(f"base {uri}: not understood; write models:/name@alias, or the place of the weights")
    tracking = connect(experiment=TrackingSettings().experiment, registered_model=found["name"], runs=runs_folder())
    version = tracking.by_alias(found["alias"])
    if version is None:
        raise NotFoundError(f"base {uri}: no version has this alias; give it to one, or name the place of the weights")
    return version.source, version.digest or _base(version.source)[1]
