"""The service of the intake on files of this machine."""

from pathlib import Path

from pipelines.intake_app import Service
from serving.tenants import Tenants
from tests.unit.intake.installation import PIPELINE, STAGE, TINY, Starter, intake, write_base, write_corpus
from vilam3.intake.rules import Rules
from vilam3.intake.triggers import Standing, Triggers
from vilam3.recipe import load

KEY, SECRET = "a-key-of-sixteen-or-more", "a-shared-secret"
HEADERS = {"Authorization": f"Bearer {KEY}"}


def service_at(root: Path, starter: Starter, *, base: str = "", rules: Rules | None = None) -> Service:
    """With a corpus and a base below `root`."""
    write_corpus(root / "corpus")
    standing = Standing(
        pipeline=PIPELINE,
        stages=(STAGE,),
        recipe=load([TINY]).resolved_json(),
        base_checkpoint=base or str(write_base(root / "base")),
        experts="s3://data/experts",
        corpus=(root / "corpus").as_uri(),
    )
    triggers = Triggers(intake=intake(root, starter, rules=rules), standing=standing)
    return Service(triggers=triggers, tenants=Tenants([KEY]), mlflow_secret=SECRET)
