"""Images that a message carries (data URLs) or names elsewhere (``https://``, ``s3://``, ``dicomweb://``)."""

import base64
import binascii
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from serving.refusals import UnsupportedError
from serving.wire import STUDY_SCHEME
from vilam3.data.intake import Limits, read_study
from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.errors import DataError
from vilam3.scratch import scratch
from vilam3.sources.images import Sources
from vilam3.sources.schemes import SCHEMES, is_elsewhere

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.ASCII)
# Readers look at the content; the suffix only says what the sender claims.
SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/jpg": ".jpg",
    "application/dicom": ".dcm",
    "application/zip": ".zip",
    "application/gzip": ".nii.gz",
    "application/x-nifti": ".nii.gz",
}
MOST_IMAGES = 16


def read_attachments(
    urls: Sequence[str], *, sources: Sources, limits: Limits, modality: Modality | None = None, part: str = "image_url"
) -> Study:
    """The study that all URLs together are.

    Args:
        urls: Data URLs, or addresses elsewhere.
        sources: What may be fetched.
        limits: On all of them together.
        modality: Overrides what the files say.
        part: How messages call a URL.

    Raises:
        DataError: one cannot be used, or is not permitted.
        NotFoundError: there is nothing there.
        UnsupportedError: one is neither.
        PacsError: the archive refuses or is out of reach.
    """
    if len(urls) > MOST_IMAGES:
        raise DataError(f"messages: {len(urls)} images in one message, at most {MOST_IMAGES}; upload them as one study")
    end = time.monotonic() + sources.permits.total_s
    with scratch() as beside:
        folder = beside / "images"
        folder.mkdir()
        paths, left_bytes = [], limits.max_bytes
        for number, url in enumerate(urls, start=1):
            hurried = replace(sources, permits=replace(sources.permits, total_s=max(0.01, end - time.monotonic())))
            bounded = replace(limits, max_bytes=max(1, left_bytes))
            paths.append(_bring(url, folder / f"{part}_{number}", hurried, bounded, f"{part} {number}"))
            left_bytes -= sum(path.stat().st_size for path in paths[-1].rglob("*")) or paths[-1].stat().st_size
        return read_study(paths[0] if len(paths) == 1 else folder, modality=modality, limits=limits)


def _bring(url: str, folder: Path, sources: Sources, limits: Limits, where: str) -> Path:
    folder.mkdir()
    if is_elsewhere(url):
        return sources.fetch(url, folder, limits=limits, where=where)
    found = _DATA_URL.match(url)
    if found is None:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UnsupportedError(
            f"{where}: only data URLs (data:image/png;base64,...), {STUDY_SCHEME}<id> and what {known} name are read "
            "here; send the image itself or upload it to /v1/studies"
        )
    if not found[3]:
        raise DataError(f"{where}: the data URL is not base64; encode the image as base64")
    try:
        content = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: the base64 is damaged; encode the image again") from error
    target = folder / f"{folder.name}{SUFFIXES.get(found[1] or '', '')}"
    target.write_bytes(content)
    return target
