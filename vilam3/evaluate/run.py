"""Asks a corpus's held-out questions the way a user's are asked, and scores the answers.

Questions, rendering, wording and the expert loop are those of serving (`vilam3.consultant`, `vilam3.dialogue.drive`);
here many dialogues run in lock-step, and an expert looks at a study once however often it is asked about.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vilam3 import __version__, consultant
from vilam3.artifacts import sha256_file, sha256_tree
from vilam3.consultant import Consultant
from vilam3.data.intake import read_study
from vilam3.data.llava import read_questions
from vilam3.data.sample import Modality, Question
from vilam3.data.study import Study
from vilam3.dialogue.drive import answer_batch
from vilam3.dialogue.loop import Transcript
from vilam3.dialogue.messages import Sampling
from vilam3.dialogue.panel import Ask
from vilam3.errors import DataError
from vilam3.evaluate import metrics
from vilam3.evaluate.metrics import NONE, call_label
from vilam3.evaluate.results import Evaluation, Provenance, Record, Tamper, summarise
from vilam3.experts.protocol import ExpertCall, ExpertResult, Watch, unwatched
from vilam3.settings import EvaluationSettings
from vilam3.train.record import digest_of, weights_digest

OnProgress = Callable[[int, int], None]  # questions done, questions in all
UNREADABLE = "?"  # the loop's name for a trigger that names no expert or argument
STUDIES_HELD = 32
DEFAULT_SETTINGS = EvaluationSettings()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examination:
    """Held-out questions and what experts have said about their studies so far; serves several models one by one.

    Attributes:
        corpus: Its directory.
        split: Which questions.
        settings: How many, in what batches, with how long replies.
        seed: Of the bootstrap.
        questions: In the order asked.
        results: Expert results by study digest, expert, argument and slice.
    """

    corpus: Path
    split: str
    settings: EvaluationSettings
    seed: int
    questions: tuple[Question, ...]
    results: dict[tuple[str, str, str, int | None], ExpertResult] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Names the questions and the studies they are about."""
        asked = [question.question_id for question in self.questions]
        file = sha256_file(_questions_file(self.corpus, self.split))
        return digest_of({"questions": file, "asked": asked, "studies": sha256_tree(self.corpus / "studies")})


def examination(
    corpus: Path, *, split: str, settings: EvaluationSettings = DEFAULT_SETTINGS, seed: int = 0
) -> Examination:
    """Read the questions of a split, at most as many per task as the settings say.

    Raises:
        DataError: the corpus has no such split, or it is empty.
    """
    path = _questions_file(corpus, split)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.jsonl"))) or "none"
        raise DataError(f"{path}: no such questions; the corpus has the splits {known}")
    questions = _first_of_each_task(read_questions(path), most=settings.questions)
    if not questions:
        raise DataError(f"{path}: holds no question; prepare a corpus with more patients in this split")
    return Examination(corpus=corpus, split=split, settings=settings, seed=seed, questions=questions)


def evaluate(  # noqa: PLR0913 - the three inputs, and what the recipe says of evaluation
    checkpoint: Path,
    corpus: Path,
    experts: Path,
    *,
    split: str,
    with_experts: bool,
    settings: EvaluationSettings = DEFAULT_SETTINGS,
    seed: int = 0,
    tamper: Tamper | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Load a model and its experts and ask them every question of a split.

    Args:
        checkpoint: Model directory.
        corpus: A prepared corpus.
        experts: Directory of the expert bundles.
        split: ``validation`` or ``test``.
        with_experts: False asks without model cards, so that the model answers from the pictures alone.
        settings: Of the recipe.
        seed: Of the bootstrap.
        tamper: Withhold what experts find, or swap it between patients; shows what the gain comes from.
        on_progress: Told about every batch.

    Raises:
        DataError: the corpus cannot be used.
        CheckpointError: the model cannot be loaded.
        ExpertError: the experts cannot be loaded.
    """
    asked = examination(corpus, split=split, settings=settings, seed=seed)
    return examine(
        asked,
        consultant.load(str(checkpoint), experts=experts),
        provenance=provenance_of(asked, checkpoint, experts),
        with_experts=with_experts,
        tamper=tamper,
        on_progress=on_progress,
    )


def provenance_of(asked: Examination, checkpoint: Path, experts: Path) -> Provenance:
    """What is evaluated, by digests."""
    return Provenance(
        weights=weights_digest(checkpoint),
        experts=sha256_tree(experts),
        corpus=asked.digest,
        split=asked.split,
        dialect="",  # the model says it when it is asked
        seed=asked.seed,
        resamples=asked.settings.bootstrap_resamples,
        max_new_tokens=asked.settings.max_new_tokens,
        version=__version__,
    )


def examine(
    asked: Examination,
    asker: Consultant,
    *,
    provenance: Provenance,
    with_experts: bool,
    tamper: Tamper | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Ask `asker` every question; without experts those are left out that only an expert can do."""
    started = time.monotonic()
    room = _Room(asked=asked, asker=asker, with_experts=with_experts, tamper=tamper)
    questions = [question for question in asked.questions if with_experts or not is_request(question)]
    records: list[Record] = []
    for start in range(0, len(questions), asked.settings.batch):
        batch = questions[start : start + asked.settings.batch]
        transcripts = room.ask(batch)
        records += [record_of(question, said) for question, said in zip(batch, transcripts, strict=True)]
        if on_progress is not None:
            on_progress(len(records), len(questions))
    return summarise(
        records,
        with_experts=with_experts,
        provenance=provenance.model_copy(update={"dialect": asker.dialect}),
        seconds=time.monotonic() - started,
        tamper=tamper,
    )


def is_request(question: Question) -> bool:
    """Whether only an expert can do what is asked: the right answer is itself a trigger, as for segmentation."""
    return bool(question.expert) and f"<{question.expert}(".lower() in question.answer.lower()


def record_of(question: Question, transcript: Transcript) -> Record:
    """What became of a question."""
    made = dict.fromkeys(
        "unreadable" if outcome.call.expert == UNREADABLE else call_label(outcome.call.expert, outcome.call.argument)
        for outcome in transcript.outcomes
    )
    return Record(
        question_id=question.question_id,
        task=question.task,
        patient=question.patient,
        text=question.text,
        expected=question.answer,
        reply=transcript.answer,
        is_right=metrics.is_right(transcript.answer, expected=question.answer),
        needs_expert=bool(question.expert) and not is_request(question),
        is_request=is_request(question),
        expected_call=call_label(question.expert, question.argument),
        made_call=" + ".join(made) or NONE,
        ending=transcript.ending,
        expert_errors=tuple(outcome.error for outcome in transcript.outcomes if outcome.error),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Room:
    """One model being asked in one way."""

    asked: Examination
    asker: Consultant
    with_experts: bool
    tamper: Tamper | None
    donors: dict[str, Question] = field(init=False)
    read: Callable[[str, Modality], Study] = field(init=False)

    def __post_init__(self) -> None:
        swapped = self.tamper == "swap"
        object.__setattr__(self, "donors", donors_of(self.asked.questions) if swapped else {})
        object.__setattr__(self, "read", functools.lru_cache(maxsize=STUDIES_HELD)(self._read))

    def ask(self, questions: Sequence[Question]) -> list[Transcript]:
        """In order; those of one family of tasks together."""
        found: dict[str, Transcript] = {}
        tasks = [self.asker.task_of(question.task) for question in questions]
        for task in dict.fromkeys(tasks):
            own = [question for question, named in zip(questions, tasks, strict=True) if named == task]
            found |= zip((one.question_id for one in own), self._ask(own, task), strict=True)
        return [found[question.question_id] for question in questions]

    def _ask(self, questions: Sequence[Question], task: str) -> list[Transcript]:
        askings = [
            self.asker.asking(
                question.text,
                self.read(question.study, question.modality),
                slice_index=question.slice_index,
                with_experts=self.with_experts,
            )
            for question in questions
        ]
        asks = [self._expert_side(question) for question in questions]
        sampling = Sampling(max_new_tokens=self.asked.settings.max_new_tokens, task=task)
        return answer_batch(askings, self.asker.engine, asks, self.asker.grammar(), sampling=sampling)

    def _expert_side(self, question: Question) -> Ask:
        seen = self.donors.get(question.question_id, question)

        def ask(call: ExpertCall, _: Watch) -> ExpertResult:
            result = self._result(call, seen)
            return replace(result, text="", overlay=None) if self.tamper == "withhold" else result

        return ask

    def _result(self, call: ExpertCall, question: Question) -> ExpertResult:
        study = self.read(question.study, question.modality)
        key = (study.digest, call.expert, call.argument, question.slice_index)
        if key not in self.asked.results:
            found = self.asker.ask_on(study, slice_index=question.slice_index)(call, unwatched)
            self.asked.results[key] = replace(found, mask=None)  # large, and nobody here looks at it
        return self.asked.results[key]

    def _read(self, study: str, modality: Modality) -> Study:
        return read_study(self.asked.corpus / study, modality=modality)


def donors_of(questions: Sequence[Question]) -> dict[str, Question]:
    """For each question the next one of its task that is about another patient: whose findings a swap hands over."""
    donors: dict[str, Question] = {}
    for index, question in enumerate(questions):
        others = (*questions[index + 1 :], *questions[:index])
        donors[question.question_id] = next(
            (one for one in others if one.task == question.task and one.patient != question.patient), question
        )
    return donors


def _first_of_each_task(questions: Sequence[Question], *, most: int | None) -> tuple[Question, ...]:
    taken: dict[str, int] = {}
    kept: list[Question] = []
    for question in questions:
        taken[question.task] = taken.get(question.task, 0) + 1
        if most is None or taken[question.task] <= most:
            kept.append(question)
    return tuple(kept)


def _questions_file(corpus: Path, split: str) -> Path:
    return corpus / "questions" / f"{split}.jsonl"
