"""The grammar by which a reply of the language model calls an expert: ``<VISTA3D(hepatic tumor)>``.

It accepts exactly what the published demo accepts (Project-MONAI VLM-Radiology-Agent-Framework fc8c5a7,
``m3/demo/gradio_m3.py`` and ``m3/demo/experts/``), odd forms included, because published weights were judged with it.
Scanning is by `str.find` within lines instead of the demo's regular expressions: the same groups, but in linear time
for any reply. It says more than the demo in one place: a group that has the form of a trigger but names no expert at
hand is an error that the model and the reader are told, where the demo takes the reply for the answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vilam3.errors import ExpertError
from vilam3.experts.protocol import ExpertCall

PUBLISHED_ORDER = ("CXR", "VISTA3D", "BRATS")  # the demo asks them in this order whether a group mentions them
UNIMPLEMENTED = "VISTA2D"  # on the published card, but no published expert stands behind it
DEFAULT_ARGUMENT = "everything"
LONGEST_NAME = 40
QUOTED = 60  # characters of a reply quoted in a message


@dataclass(frozen=True, slots=True)
class Grammar:
    """Finds triggers in replies.

    Attributes:
        arguments: Expert name to its valid arguments; empty where it takes none and ignores what is given.
        several: Serve every trigger of a reply, each once and in order, instead of none unless there is exactly one.
    """

    arguments: Mapping[str, tuple[str, ...]]
    several: bool = field(default=False, kw_only=True)

    def parse(self, reply: str) -> tuple[ExpertCall, ...]:
        """The calls a reply makes; empty where it makes none.

        Raises:
            ExpertError: the reply calls an expert or an argument that does not exist, or gives several arguments.
        """
        groups = list(enclosed(reply))
        if not self.several and len(groups) != 1:
            return ()
        calls = (self._call(group) for group in groups)
        return tuple(dict.fromkeys(call for call in calls if call is not None))

    def _call(self, group: str) -> ExpertCall | None:
        name = self._expert(group)
        if name is None:
            return None
        if not self.arguments[name]:
            return ExpertCall(expert=name)
        return ExpertCall(expert=name, argument=self._argument(name, group))

    def _expert(self, group: str) -> str | None:
        head = group.partition("(")[0]
        if head in self.arguments and head not in PUBLISHED_ORDER:
            return head  # so that an added expert may be called CXR2
        added = [name for name in self.arguments if name not in PUBLISHED_ORDER]
        for name in (*PUBLISHED_ORDER, *added):
            if name in group:
                if name not in self.arguments:
                    raise ExpertError(f"the expert {name} is not available here; {self._choices()}.")
                return name
        if UNIMPLEMENTED in group:
            raise ExpertError(f"the expert {UNIMPLEMENTED} has no implementation; {self._choices()}.")
        if _looks_like_name(head) and "(" in group:
            raise ExpertError(f"there is no expert {head}; {self._choices()}.")
        return None

    def _argument(self, name: str, group: str) -> str:
        valid = self.arguments[name]
        given = list(_parenthesised(group[len(name) :]))
        if len(given) > 1:
            raise ExpertError(f"{name} takes one argument at a time, not {len(given)}; call it once for each.")
        argument = given[0] if given else ""
        if not argument and DEFAULT_ARGUMENT in valid:
            return DEFAULT_ARGUMENT
        if argument not in valid:
            choices = ", ".join(repr(choice) for choice in valid)
            raise ExpertError(f"{name} does not know the argument {argument[:QUOTED]!r}; valid are {choices}.")
        return argument

    def _choices(self) -> str:
        return "available are " + ", ".join(sorted(self.arguments)) if self.arguments else "no expert is available"


def format_trigger(call: ExpertCall) -> str:
    """The trigger as the trained model writes it, such as ``<CXR()>``."""
    return f"<{call.expert}({call.argument})>"


def enclosed(reply: str) -> Iterator[str]:
    """What stands between each ``<`` and the next ``>`` of the same line."""
    for line in reply.split("\n"):
        yield from _between(line, "<", ">")


def _parenthesised(text: str) -> Iterator[str]:
    return _between(text, "(", ")")


def _between(line: str, opening: str, closing: str) -> Iterator[str]:
    start = line.find(opening)
    while start >= 0:
        end = line.find(closing, start + 1)
        if end < 0:
            return
        yield line[start + 1 : end]
        start = line.find(opening, end + 1)


def _looks_like_name(head: str) -> bool:
    return head.isidentifier() and head.isupper() and len(head) <= LONGEST_NAME
