"""What every kind of job has, so that whoever launches and watches one need not know which it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vilam3.cluster import Kind
from vilam3.launch.status import Observation
from vilam3.train.news import News

RECIPE_VARIABLE = "VILAM3_RECIPE"  # the recipe comes by the environment, so that the command stays readable
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the pods of a job do.

    Attributes:
        options: Of `vilam3 train`, but for recipe and launcher.
        recipe: Resolved, as JSON.
        workers: Data-parallel processes.
        pods: How many hold them.
    """

    options: Sequence[str]
    recipe: str
    workers: int
    pods: int

    @property
    def variable(self) -> dict[str, str]:
        """The recipe as a variable of a container; Kubernetes would replace what looks like a reference."""
        return {"name": RECIPE_VARIABLE, "value": escaped(self.recipe)}


class BackEnd(Protocol):
    """A kind of job."""

    @property
    def kind(self) -> Kind:
        """As the API server has it."""
        ...

    @property
    def operator(self) -> str:
        """Whose kind it is, by its name among those of the platform."""
        ...

    @property
    def lasts_until_pods_end(self) -> bool:
        """Whether a deleted job has to stay until its pods are gone, since the next of its name owns them too."""
        ...

    def verify(self, template: Mapping[str, Any]) -> None:
        """Raise LookupError or TypeError where a job's template lacks what `fill` needs."""
        ...

    def fill(self, manifest: Manifest, work: Work) -> None:
        """Put the work into a copy of the template."""
        ...

    def selector(self, job: Mapping[str, Any]) -> str:
        """Of its pods; empty as long as it has none."""
        ...

    def observed(
        self, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], news: News | None
    ) -> Observation:  # fmt: skip
        """Put together what the cluster and the job itself say."""
        ...


def escaped(text: str) -> str:
    """A text that Kubernetes leaves as it is where it replaces references to variables."""
    return text.replace("$(", "$$(")
