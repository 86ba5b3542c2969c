"""DENOISE: a fourth expert that only its class, its entry point and a chart value make known."""

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.experts.bundles import write_small
from vilam3.data.phantom.ct import make_ct
from vilam3.data.phantom.dose import low_dose
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import Cancelled, ExpertError
from vilam3.experts import denoise
from vilam3.experts.denoise import noise_hu, restore
from vilam3.experts.denoise_network import ResidualNet
from vilam3.experts.facts import CARDS, card
from vilam3.experts.fit_denoise import NOISELESS
from vilam3.experts.fitting import fit_expert
from vilam3.experts.protocol import ExpertCall, Point
from vilam3.experts.registry import GROUP, Registry


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    root = tmp_path_factory.mktemp("experts")
    metrics = fit_expert("denoise", root / "no-corpus", root, steps=150, seed=0)
    write_small(root / "vista3d")
    return root, metrics


@pytest.fixture(scope="module")
def scan() -> Study:
    """A low-dose scan."""
    rng = np.random.default_rng(5)
    return study_of(modality="CT", volumes=[low_dose(make_ct(rng, NOISELESS).volume, photons=5e3, rng=rng)])


def test_fewer_photons_are_more_noise_and_no_bias() -> None:
    rng = np.random.default_rng(1)
    clean = make_ct(rng, NOISELESS).volume
    slab = Volume(voxels_XYZ=clean.voxels_XYZ[:, :, 12:16], affine_RAS=clean.affine_RAS)
    inside = slab.voxels_XYZ > -200
    errors = [
        (low_dose(slab, photons=photons, rng=rng).voxels_XYZ - slab.voxels_XYZ)[inside] for photons in (2e3, 2e4, 2e5)
    ]
    spread = [float(error.std()) for error in errors]
    assert spread[0] > 2 * spread[1] > 4 * spread[2] > 0
    assert abs(errors[2].mean()) < spread[2]


def test_it_is_fitted_on_phantoms_and_says_by_how_much_it_helps(fitted: tuple[Path, dict[str, float]]) -> None:
    _, metrics = fitted
    assert metrics["rmse_after_hu"] < 0.8 * metrics["rmse_before_hu"]
    assert metrics["psnr_after_db"] > metrics["psnr_before_db"] + 1.5


def test_a_block_gives_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ResidualNet(width=4, depth=3).eval()
    torch.nn.init.normal_(network.layers[-1].weight, std=0.1)  # type: ignore[arg-type]  # a convolution's
    voxels_XYZ = np.random.default_rng(0).normal(0, 100, (13, 9, 11)).astype(np.float32)
    whole = restore(network, voxels_XYZ)
    assert np.abs(whole - voxels_XYZ).max() > 1
    monkeypatch.setattr(denoise, "BLOCK", 4)
    told: list[float] = []
    assert np.allclose(restore(network, voxels_XYZ, watch=told.append), whole, atol=1e-3)
    assert told == sorted(told)
    assert len(told) == 4 * 3 * 3 + 1


def test_the_model_is_shown_the_restored_slice(fitted: tuple[Path, dict[str, float]], scan: Study) -> None:
    registry = Registry.load(fitted[0])
    (call,) = registry.grammar().parse("This is noisy. I call <DENOISE(picture)>.")
    found = registry.run(call, scan)
    assert found.text.count("<image>") == 1
    assert found.overlay is not None
    before, after = (measured.value for measured in found.measurements)
    assert after < before
    assert before == pytest.approx(noise_hu(scan.volumes[0].voxels_XYZ, scan.num_slices // 2), abs=0.01)


def test_a_restored_scan_is_segmented(fitted: tuple[Path, dict[str, float]], scan: Study) -> None:
    registry = Registry.load(fitted[0])
    found = registry.run(ExpertCall(expert="DENOISE", argument="hepatic tumor"), scan)
    plain = registry.run(ExpertCall(expert="VISTA3D", argument="hepatic tumor"), scan)
    assert found.mask is not None
    assert plain.mask is not None
    assert found.mask.ids_XYZ.shape == plain.mask.ids_XYZ.shape
    assert (found.provenance.expert, found.provenance.study_digest) == ("DENOISE", scan.digest)
    assert {measured.quantity for measured in found.measurements} >= {"noise"}


def test_what_it_cannot_do_is_said(fitted: tuple[Path, dict[str, float]], scan: Study, tmp_path: Path) -> None:
    registry = Registry.load(fitted[0])
    with pytest.raises(ExpertError, match="reads one CT volume"):
        registry.run(ExpertCall(expert="DENOISE"), Study(digest="d", modality="CXR"))
    with pytest.raises(ExpertError, match="takes no points"):
        registry.run(ExpertCall(expert="DENOISE"), scan, points=[Point(xyz_mm=(0, 0, 0), label="liver")])
    (tmp_path / "denoise").symlink_to(fitted[0] / "denoise")
    alone = Registry.load(tmp_path)
    with pytest.raises(ExpertError, match="VISTA3D is not installed beside it"):
        alone.run(ExpertCall(expert="DENOISE", argument="organs"), scan)

    def leave(_: float) -> None:
        raise Cancelled("gone")

    with pytest.raises(Cancelled):
        registry.run(ExpertCall(expert="DENOISE"), scan, watch=leave)


def test_its_card_appears_where_it_is_enabled_and_leaves_the_published_ones_alone(
    fitted: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    assert "DENOISE" in {point.name for point in entry_points(group=GROUP)}
    with_it = Registry.load(fitted[0])
    assert with_it.names == ("VISTA3D", "DENOISE")
    *published, footer = CARDS.splitlines(keepends=True)
    assert with_it.cards() == "".join([*published, denoise.CARD, footer])
    (tmp_path / "vista3d").symlink_to(fitted[0] / "vista3d")
    without = Registry.load(tmp_path)
    assert without.cards() == CARDS
    assert without.names == ("VISTA3D",)
    assert card("VISTA3D") in with_it.cards()
