"""What an expert found, as JSON: words, numbers and a small overlay in it, a segmentation by reference to the store.

Numbers and their origin are those of `vilam3.experts.protocol`; fields that an expert of another version adds to them
are ignored.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from vilam3.data.sample import Dialect, Modality
from vilam3.experts.protocol import ExpertResult, Measurement, Point, Provenance
from vilam3.services.pictures import from_data_url, to_data_url

MOST_POINTS = 64


class Consultation(BaseModel):
    """What an expert's service is asked.

    Attributes:
        study: The study's reference in the store (see `vilam3.shelf`).
        study_digest: Of the content that is meant; a service that finds another refuses.
        argument: As in a trigger.
        slice_index: Axial slice; None is the middle one.
        points: Places that say what is sought, for experts that take them.
        modality: What the study is to be read as, where the caller knows better than the file did.
        dialect: Wording that the language model was trained in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    study_digest: str = ""
    argument: Annotated[str, Field(max_length=200)] = ""
    slice_index: Annotated[int, Field(ge=0)] | None = None
    points: Annotated[tuple[Point, ...], Field(max_length=MOST_POINTS)] = ()
    modality: Modality | None = None
    dialect: Dialect = "demo"


class Finding(BaseModel):
    """An `ExpertResult` on the wire.

    Attributes:
        text: For the language model.
        overlay: PNG in a data URL, or None.
        mask: Key of the segmentation in the store, or None.
        labels: Label id to name in the segmentation.
        colors: Colour name to label name.
        scores: Probabilities by label.
        measurements: Numbers with units.
        provenance: Where it comes from.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str
    overlay: str | None = None
    mask: str | None = None
    labels: Mapping[int, str] = Field(default_factory=dict)
    colors: Mapping[str, str] = Field(default_factory=dict)
    scores: Mapping[str, float] = Field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    provenance: Provenance

    @classmethod
    def of(cls, result: ExpertResult, *, mask: str | None = None) -> "Finding":
        """The wire form; the segmentation has been stored under the key `mask`."""
        return cls(
            text=result.text,
            overlay=None if result.overlay is None else to_data_url(result.overlay),
            mask=mask,
            labels=dict(result.labels),
            colors=dict(result.colors),
            scores=dict(result.scores),
            measurements=result.measurements,
            provenance=result.provenance,
        )

    def result(self) -> ExpertResult:
        """The finding as the dialogue takes it.

        Raises:
            DataError: the overlay is damaged.
        """
        where = f"overlay of {self.provenance.expert}"
        return ExpertResult(
            text=self.text,
            overlay=None if self.overlay is None else from_data_url(self.overlay, where=where),
            mask_reference=self.mask or "",
            mask_names=dict(self.labels),
            colors=dict(self.colors),
            scores=dict(self.scores),
            measurements=self.measurements,
            provenance=self.provenance,
        )
