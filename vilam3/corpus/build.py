"""Writing a corpus directory.

corpus.json                      what it holds, from which seed and settings, and its digest
samples/<dataset>.json           LLaVA conversations of the training patients
images/*.png                     their pictures, named by content
questions/{validation,test}.jsonl, studies/<pseudonym>/
experts/{vista3d,brats,cxr}/     images, labels and split.json for the small experts
"""

import json
import multiprocessing
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from vilam3.artifacts import sha256_tree, whole_directory, write_json
from vilam3.corpus.contribution import Contribution, contribute
from vilam3.corpus.material import MATERIAL_OF
from vilam3.corpus.reading import exercises, glossary
from vilam3.data.llava import write_questions, write_samples
from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.sample import Dialect, Question, Sample

Progress = Callable[[int, int], None]
CHUNK = 16  # patients a worker draws between two reports
MOST_WORKERS = 8


def build_corpus(
    settings: PhantomSettings,
    out: Path,
    *,
    seed: int,
    dialect: Dialect = "training",
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw the patients and write everything below `out`, whole or not at all.

    Args:
        settings: How many and how hard.
        out: Directory to create; an existing one is replaced.
        seed: Everything follows from it, whatever the number of processes.
        dialect: Wording of the expert conversations.
        on_progress: Called with patients done and patients in all.

    Returns:
        The manifest, as also written to ``corpus.json``.
    """
    with whole_directory(out) as root:
        draw = partial(contribute, root, seed=seed, settings=settings, dialect=dialect)
        gathered: list[Contribution] = []
        numbered = list(_numbered(settings))
        for contribution in _drawn(draw, numbered):
            gathered.append(contribution)
            if on_progress is not None:
                on_progress(len(gathered), len(numbered))
        counts = {
            "patients": dict(Counter(f"{one.kind}_{one.split}" for one in gathered)),
            "samples": _write_samples(root, gathered, settings, seed, dialect),
            "questions": _write_questions(root, gathered),
        }
        _write_labels(root, gathered)
        manifest = {
            "name": "phantom",
            "seed": seed,
            "dialect": dialect,
            "settings": json.loads(settings.model_dump_json()),
            **counts,
            "digest": sha256_tree(root),
        }
        write_json(root / "corpus.json", manifest)
        return manifest


def _numbered(settings: PhantomSettings) -> Iterator[tuple[str, int]]:
    sizes = {"ct": settings.ct_patients, "mri": settings.mri_patients, "cxr": settings.cxr_patients}
    return ((kind, number) for kind, size in sizes.items() for number in range(size))


def _drawn(draw: Callable[[tuple[str, int]], Contribution], numbered: list[tuple[str, int]]) -> Iterator[Contribution]:
    """Contributions in the order of `numbered`, drawn by as many processes as there are cores."""
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    if workers == 1 or len(numbered) <= CHUNK:
        yield from map(draw, numbered)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of whoever calls
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        yield from pool.map(draw, numbered, chunksize=CHUNK)


def _end_with_parent() -> None:
    """Let a worker end when its parent was killed; it would wait for ever for the next patient."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_samples(
    root: Path, gathered: list[Contribution], settings: PhantomSettings, seed: int, dialect: Dialect
) -> dict[str, int]:
    datasets: dict[str, list[Sample]] = defaultdict(list)
    for contribution in gathered:
        for dataset, sample in contribution.samples:
            datasets[dataset].append(sample)
    datasets["glossary"] = glossary()
    datasets["reading"] = exercises(settings.reading_exercises, seed=seed, dialect=dialect)
    for dataset, samples in datasets.items():
        write_samples(root / "samples" / f"{dataset}.json", samples)
    return {dataset: len(samples) for dataset, samples in sorted(datasets.items())}


def _write_questions(root: Path, gathered: list[Contribution]) -> dict[str, int]:
    counts = {}
    for split in ("validation", "test"):
        questions: list[Question] = [q for one in gathered if one.split == split for q in one.questions]
        write_questions(root / "questions" / f"{split}.jsonl", questions)
        counts[split] = len(questions)
    return counts


def _write_labels(root: Path, gathered: list[Contribution]) -> None:
    for kind, expert in MATERIAL_OF.items():
        kept = [one for one in gathered if one.kind == kind and one.is_material]
        names = {split: [one.name for one in kept if one.split == split] for split in ("train", "validation")}
        write_json(root / "experts" / expert / "split.json", names)
        if kind == "cxr":
            labels = {one.name: {name: int(there) for name, there in one.findings.items()} for one in kept}
            write_json(root / "experts" / expert / "labels.json", labels)
