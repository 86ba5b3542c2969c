"""How many phantoms there are and how hard they are to read; part of the recipe, imports no numerics."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Range = tuple[float, float]


class PhantomSettings(BaseModel):
    """The synthetic corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ct_patients: PositiveInt = 600
    """Abdominal CT volumes."""

    mri_patients: PositiveInt = 400
    """Brain MRI examinations of four sequences."""

    cxr_patients: PositiveInt = 900
    """Chest radiographs."""

    questions_per_patient: PositiveInt = 2
    """Questions about each patient and task; a training patient answers each once directly and once by an expert."""

    expert_volumes: PositiveInt = 160
    """Most CT and MRI training patients whose volumes and labels are kept to train the small experts."""

    reading_exercises: PositiveInt = 3000
    """Text-only exercises in finding one line among predictions; a small language model cannot read yet."""

    validation_fraction: float = Field(default=0.08, gt=0, lt=0.5)
    """Share of patients kept for choosing checkpoints and operating points."""

    test_fraction: float = Field(default=0.12, gt=0, lt=0.5)
    """Share of patients kept for the accuracy table."""

    ct_noise_hu: Range = (25.0, 45.0)
    """Standard deviation of the CT noise, drawn uniformly for each patient."""

    ct_contrast_hu: Range = (30.0, 80.0)
    """How much darker than its organ a CT tumour is, drawn uniformly for each tumour."""

    ct_radius_mm: Range = (9.0, 18.0)
    """Radius of a CT tumour."""

    mri_noise: Range = (0.10, 0.22)
    """Standard deviation of the MRI noise, in units of white-matter intensity."""

    mri_enhancement: Range = (0.25, 0.6)
    """How much brighter than white matter an enhancing rim is on T1 with contrast."""

    cxr_noise: Range = (12.0, 24.0)
    """Standard deviation of the radiograph's noise, in grey levels of 255."""

    cxr_contrast: Range = (0.5, 1.0)
    """Scale of every finding's visibility on a radiograph."""
