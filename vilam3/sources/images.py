"""Any image that lies elsewhere, by its URI: ``https://``, ``s3://`` or ``dicomweb://``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from vilam3.data.intake import read_study
from vilam3.data.limits import Limits
from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.errors import DataError
from vilam3.scratch import scratch
from vilam3.sources.pacs import URL_VARIABLE, Pacs, place_of
from vilam3.sources.permits import Permits
from vilam3.sources.schemes import SCHEMES

LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where images may come from, and the archive that results may go to.

    Attributes:
        permits: Web servers and buckets.
        pacs: The archive, if there is one.
    """

    permits: Permits
    pacs: Pacs | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """As the environment says.

        Raises:
            UserError: it is not understood.
        """
        return cls(permits=Permits.from_environment(), pacs=Pacs.from_environment())

    def fetch(self, uri: str, folder: Path, *, limits: Limits, where: str) -> Path:
        """Bring an image here; gives the file, or the folder of several.

        Args:
            uri: Of one of `SCHEMES`.
            folder: An empty one, for this image alone.
            limits: On its bytes and files.
            where: How messages name it.

        Raises:
            DataError: it is not permitted, cannot be read or takes too long.
            NotFoundError: there is nothing there.
            TooLargeError: beyond the limits.
            PacsError: the archive refuses or is out of reach.
            ArtifactError: the bucket refuses or is out of reach.
        """
        scheme = _scheme(uri, where)
        if scheme in {"http", "https"}:
            from vilam3.sources import web  # noqa: PLC0415 - asked for by few

            target = folder / _name(uri)
            web.download(uri, target, permits=self.permits, limits=limits, where=where)
            return target
        if scheme == "s3":
            from vilam3.sources import bucket  # noqa: PLC0415 - likewise

            return bucket.download(uri, folder, permits=self.permits, limits=limits, where=where)
        if scheme == "dicomweb":
            if self.pacs is None:
                raise DataError(f"{where}: this server knows no PACS; let the operator name one in {URL_VARIABLE}")
            place = place_of(uri, pacs_url=self.pacs.url, where=where)
            return self.pacs.fetch(place, folder, limits=limits, total_s=self.permits.total_s, where=where)
        raise DataError(
            f"{where}: not an address this reads; give one of {', '.join(f'{name}://' for name in SCHEMES)}"
        )


def _scheme(uri: str, where: str) -> str:
    try:
        return urlsplit(uri).scheme.lower()
    except ValueError as error:
        raise DataError(f"{where}: not an address; give one like https://images.example.org/scan.dcm") from error


def read_elsewhere(uris: Sequence[str], *, modality: Modality | None = None, limits: Limits | None = None) -> Study:
    """The study that all addresses together are, as far as the environment permits.

    Raises:
        DataError: one cannot be used, or is not permitted.
        NotFoundError: there is nothing there.
        TooLargeError: beyond the limits.
        PacsError: the archive refuses or is out of reach.
    """
    sources, bounds = Sources.from_environment(), limits or Limits()
    with scratch() as beside:
        paths = []
        for number, uri in enumerate(uris, start=1):
            folder = beside / f"image_{number}"
            folder.mkdir()
            paths.append(sources.fetch(uri, folder, limits=bounds, where=f"image {number}"))
        return read_study(paths[0] if len(paths) == 1 else beside, modality=modality, limits=bounds)


def _name(url: str) -> str:
    """The last part of a path, as far as readers look at names (suffix, MR sequence)."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    harmless = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name)
    return harmless[-LONGEST_NAME:].lstrip(".") or "image"
