"""Small experts: fitted to phantoms, written in the published layout, run through the registry."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vilam3.data.nifti import write_label_map, write_volume
from vilam3.data.phantom.ct import make_ct
from vilam3.data.phantom.cxr import make_cxr
from vilam3.data.phantom.mri import make_mri
from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import DataError, ExpertError, NotFoundError
from vilam3.experts.facts import CARDS
from vilam3.experts.findings import volumes_ml
from vilam3.experts.fitting import fit_expert
from vilam3.experts.protocol import ExpertCall
from vilam3.experts.registry import Registry

EASY = PhantomSettings(
    ct_noise_hu=(2.0, 4.0), ct_contrast_hu=(120.0, 130.0), ct_radius_mm=(20.0, 22.0), cxr_noise=(2.0, 4.0)
)
CASES = {"train": 4, "validation": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    names = {part: [f"{part}-{number}" for number in range(count)] for part, count in CASES.items()}
    rng = np.random.default_rng(3)
    findings = {}
    (root / "experts" / "cxr" / "images").mkdir(parents=True)
    for name in (*names["train"], *names["validation"]):
        ct = make_ct(rng, EASY)
        _write(root / "experts" / "vista3d", name, {"": ct.volume}, ct.ids_XYZ)
        mri = make_mri(rng, EASY)
        _write(root / "experts" / "brats", name, {f"_{v.sequence}": v for v in mri.volumes}, mri.ids_XYZ)
        cxr = make_cxr(rng, EASY)
        Image.fromarray(cxr.grey_HW).save(root / "experts" / "cxr" / "images" / f"{name}.png")
        findings[name] = {label: int(present) for label, present in cxr.findings.items()}
    (root / "experts" / "cxr" / "labels.json").write_text(json.dumps(findings))
    for expert in ("vista3d", "brats", "cxr"):
        (root / "experts" / expert / "split.json").write_text(json.dumps(names))
    return root


def _write(folder: Path, name: str, volumes: dict[str, Volume], ids_XYZ: np.ndarray) -> None:
    for suffix, volume in volumes.items():
        write_volume(folder / "images" / f"{name}{suffix}.nii.gz", volume)
    write_label_map(folder / "labels" / f"{name}.nii.gz", ids_XYZ, like=next(iter(volumes.values())))


@pytest.fixture(scope="module")
def experts(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("experts")
    fit_expert("vista3d", corpus, root, steps=45, seed=0)
    fit_expert("brats", corpus, root, steps=2, seed=0)
    fit_expert("cxr", corpus, root, steps=2, seed=0)
    return root


@pytest.fixture(scope="module")
def registry(experts: Path) -> Registry:
    return Registry.load(experts)


@pytest.fixture(scope="module")
def ct() -> tuple[Study, np.ndarray]:
    phantom = make_ct(np.random.default_rng(11), EASY)
    return study_of(modality="CT", volumes=[phantom.volume]), phantom.ids_XYZ


def test_bundles_have_the_published_layout(experts: Path) -> None:
    for folder in ("vista3d", "brats_mri_segmentation"):
        files = {path.relative_to(experts / folder).as_posix() for path in (experts / folder).rglob("*.*")}
        assert files >= {
            "configs/inference.json",
            "configs/metadata.json",
            "configs/logging.conf",
            "models/model.pt",
            "docs/README.md",
        }
        assert (experts / folder / "LICENSE").is_file()
        metadata = json.loads((experts / folder / "configs" / "metadata.json").read_text())
        assert "Not for diagnosis" in metadata["intended_use"]
        assert metadata["fitted"]["seed"] == 0


def test_a_fitted_segmenter_measures_what_is_there(registry: Registry, ct: tuple[Study, np.ndarray]) -> None:
    study, ids_XYZ = ct
    result = registry.run(ExpertCall(expert="VISTA3D", argument="everything"), study)
    measured = {m.label: m.value for m in result.measurements}
    true_ml = volumes_ml(ids_XYZ, study.volumes[0].affine_RAS)
    liver_ml = true_ml[1] + true_ml.get(26, 0.0)
    assert measured["liver"] == pytest.approx(liver_ml, rel=0.35)
    assert "hepatic tumor" not in measured
    assert result.mask is not None
    assert result.mask.ids_XYZ.shape == ids_XYZ.shape
    assert result.overlay is not None
    assert result.provenance.argument == "everything"
    assert result.provenance.slice_index == 16


def test_only_the_group_asked_for_is_segmented(registry: Registry, ct: tuple[Study, np.ndarray]) -> None:
    result = registry.run(ExpertCall(expert="VISTA3D", argument="pancreatic tumor"), ct[0], slice_index=12)
    assert result.mask is not None
    assert set(np.unique(result.mask.ids_XYZ)) <= {0, 4, 24}
    assert result.provenance.slice_index == 12


def test_a_single_slice_of_other_voxels_is_segmented_on_its_grid(registry: Registry) -> None:
    """Real files have any size; a lone slice is the thinnest."""
    voxels_XYZ = np.random.default_rng(0).normal(40, 20, (70, 50, 1)).astype(np.float32)
    volume = Volume(voxels_XYZ=voxels_XYZ, affine_RAS=np.diag([0.7, 0.7, 5.0, 1.0]))
    study = study_of(modality="CT", volumes=[volume])
    result = registry.run(ExpertCall(expert="VISTA3D", argument="organs"), study)
    assert result.mask is not None
    assert result.mask.ids_XYZ.shape == (70, 50, 1)


def test_a_group_the_weights_do_not_know_says_what_they_know(registry: Registry, ct: tuple[Study, np.ndarray]) -> None:
    with pytest.raises(ExpertError, match=r"not trained on anything of 'skeleton'; it knows liver, spleen, pancreas"):
        registry.run(ExpertCall(expert="VISTA3D", argument="skeleton"), ct[0])
    with pytest.raises(ExpertError, match=r"does not know the argument 'head'; valid are 'everything'"):
        registry.run(ExpertCall(expert="VISTA3D", argument="head"), ct[0])


def test_studies_of_the_wrong_kind_are_refused_in_words(registry: Registry, ct: tuple[Study, np.ndarray]) -> None:
    with pytest.raises(ExpertError, match=r"BRATS reads brain MRI, but this study is CT"):
        registry.run(ExpertCall(expert="BRATS"), ct[0])
    one = study_of(modality="MRI", volumes=ct[0].volumes)
    with pytest.raises(ExpertError, match=r"needs four sequences of one brain MRI, t1c, t1, t2, flair, .* has 1"):
        registry.run(ExpertCall(expert="BRATS"), one)
    with pytest.raises(ExpertError, match=r"VISTA3D reads one CT volume, but this study is MRI with 1"):
        registry.run(ExpertCall(expert="VISTA3D"), one)


def test_four_sequences_are_segmented(registry: Registry) -> None:
    phantom = make_mri(np.random.default_rng(5), EASY)
    study = study_of(modality="MRI", volumes=phantom.volumes)
    result = registry.run(ExpertCall(expert="BRATS"), study)
    assert result.text.startswith("The results are <image>. The colors in this image describe\n")
    assert result.mask is not None
    assert set(np.unique(result.mask.ids_XYZ)) <= {0, 1, 2, 4}


def test_labels_that_were_never_trained_are_absent_in_both_wordings(experts: Path) -> None:
    phantom = make_cxr(np.random.default_rng(5), EASY)
    study = study_of(modality="CXR", radiograph_HW=phantom.grey_HW)
    for dialect in ("demo", "training"):
        text = Registry.load(experts, dialect=dialect).run(ExpertCall(expert="CXR"), study).text
        assert "fracture: no\n" in text
        assert "hernia: no\n" in text
        assert text.endswith("\n.") == (dialect == "demo")


def test_the_same_seed_gives_the_same_weights(corpus: Path, tmp_path: Path) -> None:
    first, second = (
        fit_expert("cxr", corpus, tmp_path / str(run), steps=2, seed=4, on_progress=lambda *_: None) for run in (1, 2)
    )
    assert first == second
    weights = [next((tmp_path / run / "cxr").glob("*.pt")).read_bytes() for run in ("1", "2")]
    assert weights[0] == weights[1]


def test_material_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare the corpus first"):
        fit_expert("vista3d", tmp_path, tmp_path / "out", steps=1, seed=0)
    with pytest.raises(DataError, match="at least one"):
        fit_expert("vista3d", tmp_path, tmp_path / "out", steps=0, seed=0)
    assert not (tmp_path / "out").exists()


def test_the_registry_knows_what_is_at_hand(registry: Registry, experts: Path, tmp_path: Path) -> None:
    assert registry.names == ("CXR", "VISTA3D", "BRATS")
    assert registry.cards() == CARDS
    assert registry.grammar().parse("<VISTA3D(organs)>") == (ExpertCall(expert="VISTA3D", argument="organs"),)
    assert [entry["modality"] for entry in registry.describe()] == ["CXR", "CT", "MRI"]
    alone = Registry.load(experts, only={"CXR"})
    assert alone.names == ("CXR",)
    with pytest.raises(NotFoundError, match=r"no such directory"):
        Registry.load(tmp_path / "none")
    with pytest.raises(NotFoundError, match=r"no expert is in there"):
        Registry.load(tmp_path)
