"""Which experts can be asked: their names, arguments and cards, wherever they run and whether or not they are up."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from vilam3.errors import ExpertError
from vilam3.experts.facts import ARGUMENTS, card, cards
from vilam3.experts.trigger import PUBLISHED_ORDER, Grammar


class Named(Protocol):
    """What the language model is told of an expert."""

    @property
    def name(self) -> str:
        """As written in triggers."""
        ...

    @property
    def arguments(self) -> tuple[str, ...]:
        """Valid arguments; empty where it takes none."""
        ...

    @property
    def card(self) -> str:
        """Its model card."""
        ...


NamedT = TypeVar("NamedT", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An expert that is only known by what is said of it."""

    name: str
    arguments: tuple[str, ...] = ()
    card: str = ""


def published(name: str) -> Listed | None:
    """A published expert, or None for any other."""
    return Listed(name=name, arguments=ARGUMENTS[name], card=card(name)) if name in ARGUMENTS else None


class Roster(Generic[NamedT]):
    """The experts that a question may call."""

    def __init__(self, experts: Iterable[NamedT]) -> None:
        """List these experts, each name once."""
        self._experts = {expert.name: expert for expert in experts}

    @property
    def names(self) -> tuple[str, ...]:
        """Names at hand: the published ones in the order in which triggers are tried, then the others."""
        added = sorted(name for name in self._experts if name not in PUBLISHED_ORDER)
        return (*(name for name in PUBLISHED_ORDER if name in self._experts), *added)

    def grammar(self, *, several: bool = False) -> Grammar:
        """Finds triggers of these experts."""
        return Grammar({name: tuple(self._experts[name].arguments) for name in self.names}, several=several)

    def cards(self) -> str:
        """The model cards that open a question: the published text, then added experts; empty without experts."""
        if not self._experts:
            return ""
        added = [self._experts[name].card for name in self.names if name not in PUBLISHED_ORDER]
        return cards(tuple(added))

    def model_of(self, name: str) -> str:
        """What tells apart the models that this name stands for over time; empty where that is not known."""
        del name
        return ""

    def find(self, name: str) -> NamedT:
        """The expert of this name.

        Raises:
            ExpertError: there is none; the text is fit for the model and for the reader.
        """
        if name not in self._experts:
            available = ", ".join(self.names) or "none"
            raise ExpertError(f"the expert {name} is not available here; available are {available}.")
        return self._experts[name]
