"""Results as other systems take them, made when they are asked for: DICOM SEG, a JSON report, back to the PACS.

What is made is kept beside the answer, so that the same request gives the same bytes.
"""

import json
from dataclasses import dataclass
from typing import Any

from serving.results import ResultStore, source_name
from vilam3.data.dicom_source import DicomSource
from vilam3.data.nifti import read_label_map
from vilam3.errors import DataError, NotFoundError
from vilam3.experts.protocol import LabelMap
from vilam3.sources.pacs import URL_VARIABLE, Pacs, RefusedError, stored_form

NO_SOURCE = "segmentation: this answer has none that belongs to DICOM images; a mask of other files is at its mask_url"
NOTHING = "stow: this answer has no segmentation of DICOM images, so there is nothing to store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """Makes them from what answers left behind.

    Attributes:
        results: Where that is.
        pacs: Where segmentations are stored, if the operator named an archive.
    """

    results: ResultStore
    pacs: Pacs | None = None

    def segmentation(self, tenant: str, answer_id: str, number: int, *, form: str = "LABELMAP") -> bytes:
        """The segmentation of an expert call as DICOM SEG.

        Raises:
            NotFoundError: there is no such answer or call, it is not about DICOM images, or nothing was found.
            DataError: the images cannot be referred to.
        """
        name = f"segmentation-{number}-{form.lower()}.dcm"
        try:
            return self.results.get(tenant, answer_id, name)
        except NotFoundError:
            made = self._encoded(tenant, answer_id, number, form)
        self.results.keep(tenant, answer_id, name, made)
        return made

    def report(self, tenant: str, answer_id: str) -> dict[str, Any]:
        """The answer with everything measured about it.

        Raises:
            NotFoundError: there is no such answer.
        """
        from vilam3.results.report import report  # noqa: PLC0415 - asked for by few

        answer = json.loads(self.results.get(tenant, answer_id, "answer.json"))
        masks = {
            position: self._mask(tenant, answer_id, number) for position, number in _numbers(answer, "mask_url").items()
        }
        return report(answer, masks)

    def stow(self, tenant: str, answer_id: str) -> list[dict[str, Any]]:
        """Store every segmentation of an answer in the archive; storing again changes nothing there.

        Raises:
            NotFoundError: there is no such answer, or nothing to store.
            DataError: no archive is named here.
            PacsError: it refuses or is out of reach.
        """
        if self.pacs is None:
            raise DataError(f"stow: this server knows no PACS; let the operator name one in {URL_VARIABLE}")
        answer = json.loads(self.results.get(tenant, answer_id, "answer.json"))
        stored = []
        for number in _numbers(answer, "segmentation_url").values():
            try:
                stored.append(self._store(self.pacs, tenant, answer_id, number))
            except NotFoundError:
                continue  # the expert looked and found nothing
        if not stored:
            raise NotFoundError(NOTHING)
        return stored

    def _store(self, pacs: Pacs, tenant: str, answer_id: str, number: int) -> dict[str, Any]:
        *preferred, last = stored_form(pacs.form)
        for form in preferred:
            try:
                return self._store_as(pacs, tenant, answer_id, number, form)
            except RefusedError:  # the archive does not know label maps yet
                continue
        return self._store_as(pacs, tenant, answer_id, number, last)

    def _store_as(self, pacs: Pacs, tenant: str, answer_id: str, number: int, form: str) -> dict[str, Any]:
        content = self.segmentation(tenant, answer_id, number, form=form)
        uid = pacs.store(content, where=f"stow: segmentation {number}")
        return {"number": number, "form": form, "sop_instance_uid": uid, "bytes": len(content)}

    def _encoded(self, tenant: str, answer_id: str, number: int, form: str) -> bytes:
        from vilam3.results.segmentation import Author, encode  # noqa: PLC0415 - highdicom takes a while to import

        try:
            told = json.loads(self.results.get(tenant, answer_id, source_name(number)))
        except NotFoundError as error:
            self.results.get(tenant, answer_id, "answer.json")  # an answer that is not there is told as such
            raise NotFoundError(NO_SOURCE) from error
        author = Author(**told["author"], key=f"{answer_id}/{number}")
        source = DicomSource.from_json(told["source"])
        return encode(self._mask(tenant, answer_id, number), source, author=author, form=form)  # type: ignore[arg-type]  # one of the two

    def _mask(self, tenant: str, answer_id: str, number: int) -> LabelMap:
        ids_XYZ, affine, names = read_label_map(self.results.get(tenant, answer_id, f"mask-{number}.nii.gz"))
        return LabelMap(ids_XYZ=ids_XYZ, affine_RAS=affine, names=names)


def _numbers(answer: dict[str, Any], key: str) -> dict[int, int]:
    """The number in the URL of each expert call that has one, by the call's place in the answer."""
    urls = {position: call.get(key) for position, call in enumerate(answer["expert_calls"])}
    return {
        position: int(url.rpartition("/")[2].partition(".")[0])
        for position, url in urls.items()
        if url and url.startswith("/v1/results/")
    }
