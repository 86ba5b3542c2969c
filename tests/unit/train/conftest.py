"""A corpus of a few samples, and a recipe whose network trains in a second."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vilam3.data.llava import write_samples
from vilam3.data.sample import Sample, Turn
from vilam3.recipe import Recipe

TASKS = {"captions": 12, "vqa": 10, "expert": 6, "text": 4}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions, questions, two-image expert conversations and text-only samples on noise pictures."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "images").mkdir()
    random = np.random.default_rng(7)
    for index in range(12):
        grey = random.integers(0, 255, (30 + index, 40, 3), dtype=np.uint8)
        Image.fromarray(grey).save(root / "images" / f"{index}.png")
    for task, size in TASKS.items():
        write_samples(root / "samples" / f"{task}.json", [_sample(task, index) for index in range(size)])
    (root / "corpus.json").write_text(json.dumps({"name": "noise", "seed": 7}), encoding="utf-8")
    return root


def _sample(task: str, index: int) -> Sample:
    picture, overlay = f"images/{index}.png", f"images/{(index + 1) % 12}.png"
    side = "left" if index % 2 else "right"
    if task == "captions":
        return _conversation(task, index, (picture,), "<image>\n", f"A picture of the {side} lung, number {index}.")
    if task == "vqa":
        return _conversation(task, index, (picture,), "Which side is it?\n<image>", side)
    if task == "text":
        return _conversation(task, index, (), "What does CT stand for?", "computed tomography")
    first = (
        "Models: " + "VISTA3D for CT, BRATS for MRI. " * 9 + "\n <image>This is a CT image.\nIs there a tumor?",
        "Let me trigger <VISTA3D(organs)>. ",
    )
    second = ("The results are <image>. Use this result to respond to this prompt:\nIs there a tumor?.", "yes")
    return _conversation(task, index, (picture, overlay), *first, *second)


def _conversation(task: str, index: int, images: tuple[str, ...], *texts: str) -> Sample:
    turns = tuple(Turn(speaker="gpt" if number % 2 else "human", text=text) for number, text in enumerate(texts))
    return Sample(sample_id=f"{task}-{index}", images=images, turns=turns, task=task, patient=f"p{index}")


MODEL = {
    "preset": "tiny",
    "template": "llama_3",
    "vocab_size": 400,
    "image_whitespace": "as_written",
    "llm": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "vision": {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 42,
    },
}


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """All four stages on a network of a few thousand weights."""
    stage = {
        "learning_rate": 5e-3,
        "steps": 8,
        "global_batch": 4,
        "micro_batch": 2,
        "checkpoint_every_steps": 3,
        "max_tokens": 256,
    }
    everything = ["vision_tower", "mm_projector", "llm"]
    return Recipe.model_validate(
        {
            "name": "test",
            "seed": 11,
            "threads": 2,
            "model": MODEL,
            "stages": {
                "stage1_align": {
                    **stage,
                    "trainable": ["mm_projector"],
                    "mixture": {"captions": 1},
                    "template": "plain",
                },
                "stage2_pretrain": {**stage, "trainable": ["mm_projector", "llm"], "mixture": {"captions": 1}},
                "stage3_instruct": {**stage, "trainable": everything, "mixture": {"vqa": 1, "text": 1}},
                "stage4_expert": {
                    **stage,
                    "trainable": everything,
                    "mixture": {"vqa": 1, "expert": 2, "text": 0},
                    "kept_models": 3,
                },
            },
        }
    )
