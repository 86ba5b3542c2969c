"""One small corpus for all tests of this folder."""

from pathlib import Path

import pytest

from vilam3.corpus.build import build_corpus
from vilam3.data.phantom.settings import PhantomSettings

SETTINGS = PhantomSettings(
    ct_patients=5,
    mri_patients=5,
    cxr_patients=6,
    reading_exercises=8,
    expert_volumes=3,
    validation_fraction=0.2,
    test_fraction=0.2,
)
SEED = 5


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of sixteen patients."""
    out = tmp_path_factory.mktemp("corpus") / "phantom"
    build_corpus(SETTINGS, out, seed=SEED)
    return out
