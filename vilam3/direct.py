"""Asks a model in this process, and tells what happens in the very events a server streams (see `vilam3.remote`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vilam3.artifacts import whole_file
from vilam3.consultant import Consultant, with_modality
from vilam3.data.dicom_source import DicomSource
from vilam3.data.intake import read_study
from vilam3.data.nifti import write_label_map
from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.dialogue.drive import answer
from vilam3.dialogue.events import Event, ExpertFinished, ExpertProgressed, ExpertStarted, ReplyFinished
from vilam3.dialogue.messages import Sampling
from vilam3.dialogue.record import NOTICE, expert_call, notes
from vilam3.errors import DataError
from vilam3.experts.protocol import ExpertResult, LabelMap
from vilam3.results.whole import on_whole
from vilam3.scratch import scratch
from vilam3.sources.images import read_elsewhere

OnEvent = Callable[[Mapping[str, Any]], None]


def read_images(images: Sequence[Path | str], *, modality: Modality | None = None, question: str = "") -> Study:
    """One study from a file, a folder, several files, or addresses of images elsewhere.

    Raises:
        DataError: they cannot be used, or are not permitted.
        NotFoundError: there is nothing at an address.
        PacsError: the archive refuses or is out of reach.
    """
    if elsewhere := [image for image in images if isinstance(image, str)]:
        if len(elsewhere) < len(images):
            raise DataError("--image: some are here and some elsewhere; bring all of one study to one place")
        return with_modality(read_elsewhere(elsewhere, modality=modality), modality, question=question)
    return _read_here([image for image in images if isinstance(image, Path)], modality, question)


def _read_here(images: Sequence[Path], modality: Modality | None, question: str) -> Study:
    for image in images:
        if not image.exists():
            raise DataError(f"{image}: no such file or folder; give the images of one study")
    if len(images) == 1:
        return with_modality(read_study(images[0], modality=modality), modality, question=question)
    with scratch() as folder:
        for number, image in enumerate(images):
            (folder / f"{number:05d}_{image.name}").symlink_to(image.absolute())
        return with_modality(read_study(folder, modality=modality), modality, question=question)


def ask(  # noqa: PLR0913 - one for each option of the verb
    consultant: Consultant,
    question: str,
    study: Study | None,
    *,
    slice_index: int | None = None,
    whole: bool = False,
    with_experts: bool = True,
    task: str = "",
    out: Path | None = None,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Hold one dialogue.

    Args:
        consultant: Who is asked.
        question: As typed.
        study: What it is about, or None.
        slice_index: Axial slice; None is the middle one.
        whole: The question is about all slices: experts show the one with the most of what they looked for.
        with_experts: False asks the model alone.
        task: Whose adapters the model is to use, see `vilam3.model.families`; empty is its default.
        out: Where overlays and masks are written, if anywhere.
        on_event: Told about replies and experts.

    Returns:
        The event ``answer``, which `on_event` has been told too.
    """
    asking = consultant.asking(question, study, slice_index=slice_index, with_experts=with_experts)
    told = _Told(study=study, out=out, on_event=on_event)
    ask_expert = consultant.ask_on(study, slice_index=slice_index)
    if whole and study is not None:
        ask_expert = on_whole(ask_expert, study, dialect=consultant.dialect)
    transcript = answer(
        asking,
        consultant.engine,
        ask_expert,
        consultant.grammar(),
        sampling=Sampling(task=task),
        on_event=told.hear,
    )
    event = {
        "event": "answer",
        "answer": transcript.answer,
        "expert_calls": [told.records.get(id(outcome)) or expert_call(outcome) for outcome in transcript.outcomes],
        "notes": notes(transcript, max_rounds=asking.max_rounds),
        "warnings": [] if study is None else list(study.warnings),
        "provenance": {
            "model": consultant.model_name,
            "model_digest": consultant.model_digest,
            "engine": consultant.engine.name,
            "dialect": consultant.dialect,
            "task": task,
            "study_digest": None if study is None else study.digest,
            "ending": transcript.ending,
        },
        "notice": NOTICE,
    }
    on_event(event)
    return event


@dataclass(slots=True, kw_only=True)
class _Told:
    """Turns the driver's events into the server's."""

    study: Study | None
    out: Path | None
    on_event: OnEvent
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    def hear(self, event: Event) -> None:
        match event:
            case ReplyFinished():
                text = event.generation.text
                self.on_event({"event": "reply.finished", "round": event.round_index, "text": text})
            case ExpertStarted(call=call):
                named = {"expert": call.expert, "argument": call.argument}
                self.on_event({"event": "expert.started", "index": event.index, "round": event.round_index, **named})
            case ExpertProgressed():
                self.on_event({"event": "expert.progress", "index": event.index, "fraction": event.fraction})
            case ExpertFinished():
                self._ended(event)

    def _ended(self, event: ExpertFinished) -> None:
        record = expert_call(event.outcome, round_index=event.round_index, seconds=round(event.seconds, 3))
        if event.outcome.result is not None:
            record |= self._save(event.index, event.outcome.result)
        self.records[id(event.outcome)] = record
        name = "expert.failed" if record["error"] else "expert.finished"
        self.on_event({"event": name, "index": event.index, **record})

    def _save(self, number: int, result: ExpertResult) -> dict[str, str]:
        """Write overlay and mask; their paths stand where a server has URLs."""
        saved: dict[str, str] = {}
        if self.out is None:
            return saved
        if result.overlay is not None:
            path = self.out / f"overlay-{number}.png"
            with whole_file(path) as partial:
                result.overlay.save(partial, format="PNG")
            saved["overlay_url"] = str(path)
        if result.mask is not None and self.study is not None and self.study.volumes:
            path = self.out / f"mask-{number}.nii.gz"
            write_label_map(path, result.mask.ids_XYZ, like=self.study.volumes[0], names=result.mask.names)
            saved["mask_url"] = str(path)
            saved |= self._save_segmentation(number, result, result.mask, self.study.source)
        return saved

    def _save_segmentation(
        self, number: int, result: ExpertResult, mask: LabelMap, source: DicomSource | None
    ) -> dict[str, str]:
        """Write a DICOM SEG, where the images are of DICOM and something was found."""
        if self.out is None or source is None or not source.is_filed or not mask.ids_XYZ.any():
            return {}
        from vilam3.results.segmentation import Author, encode  # noqa: PLC0415 - highdicom takes a while to import

        found = result.provenance
        author = Author(
            expert=found.expert,
            version=found.version,
            digest=found.weights_digest,
            key=f"{found.study_digest}/{found.created_at}/{number}",
        )
        path = self.out / f"segmentation-{number}.dcm"
        with whole_file(path) as partial:
            partial.write_bytes(encode(mask, source, author=author))
        return {"segmentation_url": str(path)}
