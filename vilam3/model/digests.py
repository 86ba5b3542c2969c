"""SHA-256 of every file of a checkpoint, in ``digests.json`` beside them.

Safetensors holds no checksum, so a flipped bit in a weight would go unnoticed. Our own checkpoints carry this file; the
published ones do not, and load without it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from vilam3.artifacts import sha256_file
from vilam3.errors import CheckpointError

DIGESTS = "digests.json"
REMEDY = "the checkpoint is damaged; copy it again, or write it again from its source"


def write_digests(root: Path) -> None:
    """Record every file below `root`."""
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.name != DIGESTS)
    digests = {file.relative_to(root).as_posix(): sha256_file(file) for file in files}
    (root / DIGESTS).write_text(_canonical(digests), encoding="utf-8")


def verify_digests(root: Path) -> bool:
    """Compare every recorded file; False where the checkpoint carries no digests.

    Raises:
        CheckpointError: a file is absent or differs, or the record itself was altered.
    """
    record = root / DIGESTS
    if not record.is_file():
        return False
    for name, digest in _read(record).items():
        if not (root / name).is_file():
            raise CheckpointError(f"{root / name}: recorded in {DIGESTS} but absent; {REMEDY}")
        if sha256_file(root / name) != digest:
            raise CheckpointError(f"{root / name}: its SHA-256 is not the one recorded in {DIGESTS}; {REMEDY}")
    return True


def _canonical(digests: Mapping[str, str]) -> str:
    return json.dumps(digests, indent=2, sort_keys=True) + "\n"


def _read(record: Path) -> dict[str, str]:
    try:
        text = record.read_text(encoding="utf-8")
        digests = json.loads(text)
        is_intact = isinstance(digests, dict) and _canonical(digests) == text
    except ValueError:
        is_intact = False
    if not is_intact:
        raise CheckpointError(f"{record}: is not as it was written; {REMEDY}")
    return digests
