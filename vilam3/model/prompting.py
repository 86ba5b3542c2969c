"""From what is asked of an engine to a prompt that fits, the same whichever engine it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from vilam3.dialogue.messages import Message, Sampling
from vilam3.errors import DataError
from vilam3.model.chat import Prompt, Template, assemble
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import PieceTokenizer

RESERVED_SHARE = 8  # an eighth of the positions is kept free for the reply


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Voice:
    """How a network is spoken to.

    Attributes:
        config: Of the network.
        tokenizer: Its tokenizer.
        template: Its conversation template.
        cue: Whether prompts end in the assistant's cue. The published demo leaves it out for ``v1`` and ``hermes-2``,
            where the model then has to write it; see `Template.demo_cue`.
    """

    config: VilaConfig
    tokenizer: PieceTokenizer
    template: Template
    cue: bool = True

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        return self.template.stop_ids(self.tokenizer)

    def family_of(self, sampling: Sampling) -> int | None:
        """Number of the family of tasks whose adapters are used; None where the network has none.

        Raises:
            DataError: it has none for the task that is named.
        """
        if self.config.adapters is not None:
            return self.config.adapters.number_of(sampling.task)
        if sampling.task:
            raise DataError(f"task {sampling.task!r}: this model has no task adapters; leave it out")
        return None

    def fit(self, messages: Sequence[Message], sampling: Sampling) -> tuple[Prompt, int]:
        """The prompt, and how many tokens may be said after it.

        Raises:
            DataError: the newest question does not fit the context, or images and placeholders disagree; or a task is
                named that the network has no adapters for.
        """
        self.family_of(sampling)
        positions = self.config.llm.max_position_embeddings
        reserved = min(sampling.max_new_tokens, positions // RESERVED_SHARE)
        prompt = assemble(
            messages,
            self.tokenizer,
            self.template,
            max_tokens=min(self.config.max_tokens, positions - reserved),
            tokens_per_image=self.config.tokens_per_image,
            system_prompt=sampling.system_prompt,
            cue=self.cue,
        )
        return prompt, min(sampling.max_new_tokens, positions - prompt.num_embedded)
