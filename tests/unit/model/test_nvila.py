"""NVILA behind the same configuration: tokens in rows, Qwen2, ChatML, a line break behind every image."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.unit.model.large import made_large
from vilam3.cli.main import main
from vilam3.dialogue.messages import Message, Sampling
from vilam3.errors import CheckpointError
from vilam3.model.batching.loop import Limits
from vilam3.model.chat import template
from vilam3.model.checkpoint import Layout, Loaded, convert, load, read_config, save
from vilam3.model.config import LlmConfig, ProjectorKind, VilaConfig, VisionConfig
from vilam3.model.config_files import Stated
from vilam3.model.engine import TorchEngine
from vilam3.model.images import pixels_NCHW
from vilam3.model.inspect import inspect
from vilam3.model.tokenizer import PieceTokenizer
from vilam3.model.vila import Vila

TOLERANCE = 1e-4


def _config(projector: ProjectorKind, *, tied: bool = False, scales: int = 1) -> VilaConfig:
    """4x4 patches: 4 tokens of 2x2, and padded to 4 of 3x3."""
    return VilaConfig(
        vision=VisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            vision_use_head=False,
        ),
        llm=LlmConfig(
            family="qwen2",
            vocab_size=420,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tokenizer_model_max_length=400,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
            tie_word_embeddings=tied,
        ),
        projector=projector,
        image_order="row",
        scales=scales,
        image_end="\n",
        template="qwen2",
        prompt_dialect="training",
    )


@pytest.fixture(
    scope="module",
    params=[("mlp_downsample", 3), ("mlp_downsample_2x2_fix", 1), ("mlp_downsample_3x3_fix", 1)],
    ids=["NVILA", "NVILA-Video", "NVILA-Lite"],
)
def nvila(request: pytest.FixtureRequest, qwen2: PieceTokenizer) -> Loaded:
    projector, scales = request.param
    return made_large(_config(projector, scales=scales), qwen2)


@pytest.fixture(scope="module")
def one(qwen2: PieceTokenizer) -> Loaded:
    """One of them, for what does not depend on the projector."""
    return made_large(_config("mlp_downsample"), qwen2)


@torch.no_grad()
def test_logits_equal_those_of_a_separate_qwen2_fed_by_hand(nvila: Loaded, pictures: tuple[Image.Image, ...]) -> None:
    """As the published code does: the image's vectors, then the embedding of a line break, in place of the marker."""
    llm, model = nvila.config.llm, nvila.model
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: getattr(llm, name) for name in (*names, "num_key_value_heads", "max_position_embeddings")}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    reference = Qwen2ForCausalLM(
        Qwen2Config(**sizes, rms_norm_eps=1e-6, rope_parameters=rope, attn_implementation="eager")
    ).eval()
    assert set(reference.state_dict()) == set(model.llm.state_dict())
    reference.load_state_dict(model.llm.state_dict())
    table = reference.model.embed_tokens.weight
    pixels = pixels_NCHW(pictures[:2], nvila.config)
    vectors = model.mm_projector(model.vision_tower(pixels))
    line_break = nvila.tokenizer.backend.encode("\n")[0]
    before, after = (nvila.tokenizer.backend.encode(text)[0] for text in ("two ", " and more"))
    parts = [table[before], vectors[0], table[line_break], vectors[1], table[line_break], table[after]]
    expected = reference(inputs_embeds=torch.cat(parts)[None]).logits[0]
    ids = nvila.tokenizer.encode_with_images("two <image><image> and more")
    logits = model(torch.tensor([ids]), pixels).logits_BLV
    assert logits is not None
    assert logits[0].shape == expected.shape
    assert (logits[0] - expected).abs().max() < TOLERANCE


def _greedy(loaded: Loaded, ids: list[int], pictures: tuple[Image.Image, ...]) -> tuple[list[int], torch.Tensor]:
    pixels, said = pixels_NCHW(pictures, loaded.config), []
    for _ in range(8):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([ids]), pixels).logits_BLV
        assert logits is not None
        said.append(logits[0, -1].log_softmax(dim=-1))
        ids = [*ids, int(said[-1].argmax())]
    return ids[-8:], torch.stack(said)


def test_cached_decoding_in_company_equals_whole_forward_passes(
    nvila: Loaded, pictures: tuple[Image.Image, ...]
) -> None:
    """Pieces of five positions, so that pictures and their line breaks are cut anywhere; twice, with what is kept."""
    engine = TorchEngine(nvila, limits=Limits(slots=3, chunk=5))
    texts = {"<image>": pictures[:1], "no picture": (), "a <image> b <image> tail of some length": pictures[1:3]}
    prompts = [(nvila.tokenizer.encode_with_images(text), images) for text, images in texts.items()]
    expected = [_greedy(nvila, ids, images) for ids, images in prompts]
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            traces = list(pool.map(lambda prompt: engine.trace(*prompt, max_new=8), prompts))
        for trace, (ids, logprobs) in zip(traces, expected, strict=True):
            assert list(trace.ids) == ids
            assert (torch.stack(trace.logprobs_TV) - logprobs).abs().max() < TOLERANCE
    engine.close()


def test_a_conversation_is_answered_alone_as_in_a_batch(one: Loaded, pictures: tuple[Image.Image, ...]) -> None:
    talks = [
        [Message(role="user", text="<image>Is there a tumor?", images=pictures[:1])],
        [Message(role="user", text="a longer question without a picture")],
    ]
    greedy = Sampling(max_new_tokens=6)
    together, alone = TorchEngine(one), TorchEngine(one)
    assert together.generate(talks, greedy) == [alone.generate([talk], greedy)[0] for talk in talks]
    together.close()
    alone.close()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["folders", "flat"])
def test_saved_and_loaded_it_is_the_same_to_the_byte(
    qwen2: PieceTokenizer, tmp_path: Path, layout: Layout, tied: bool
) -> None:
    made = made_large(_config("mlp_downsample_2x2_fix", tied=tied), qwen2)
    save(made, tmp_path / "one", layout=layout)
    again = load(tmp_path / "one", dtype=None)
    assert again.unexpected == ()
    assert again.config == replace(made.config, model_dtype="torch.float32")
    state = made.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.model.state_dict().items())
    save(again, tmp_path / "two", layout=layout)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_its_files_are_those_the_published_code_reads(one: Loaded, tmp_path: Path) -> None:
    save(one, tmp_path / "model")
    root, llm, vision = (
        json.loads((tmp_path / "model" / part / "config.json").read_text()) for part in ("", "llm", "vision_tower")
    )
    assert root["image_encoder"] == {"_target_": "llava.model.encoders.BasicImageEncoder"}
    assert (root["chat_template"], root["image_aspect_ratio"], root["dynamic_s2"]) == ("qwen2", "resize", False)
    assert (llm["model_type"], llm["architectures"]) == ("qwen2", ["Qwen2ForCausalLM"])
    assert "attention_bias" not in llm
    assert vision["vision_use_head"] is False
    assert inspect(tmp_path / "model").template == "qwen2"


# What a file must say for its order of tokens to be known.
Edit = Callable[[dict[str, Any]], object]
KNOWN: list[tuple[str, Edit, Edit, str]] = [
    ("NVILA as published", lambda root: root.pop("vilam3"), lambda _: None, "row"),
    (
        "NVILA with its encoder as text",
        lambda root: (root.pop("vilam3"), root.update(image_encoder=json.dumps(root["image_encoder"]))),
        lambda _: None,
        "row",
    ),
    ("ours, as it says", lambda root: root["vilam3"].update(image_order="column"), lambda _: None, "column"),
]


def _edited(folder: Path, edit_root: Edit, edit_llm: Edit) -> Path:
    for file, edit in ((folder / "config.json", edit_root), (folder / "llm/config.json", edit_llm)):
        value = json.loads(file.read_text())
        edit(value)
        file.write_text(json.dumps(value))
    (folder / "digests.json").unlink()
    return folder


@pytest.mark.parametrize(("edit_root", "edit_llm", "order"), [row[1:] for row in KNOWN], ids=[row[0] for row in KNOWN])
def test_the_order_of_tokens_is_what_the_files_prove(
    one: Loaded, tmp_path: Path, edit_root: Edit, edit_llm: Edit, order: str
) -> None:
    save(one, tmp_path / "model")
    config = read_config(_edited(tmp_path / "model", edit_root, edit_llm))
    assert config.image_order == order
    assert config.image_end == ("\n" if order == "row" else "")


LATER = ("image_encoder", "dynamic_s2")


def test_what_its_files_leave_open_is_refused_until_it_is_stated(one: Loaded, saved: Path, tmp_path: Path) -> None:
    """Qwen2 without NVILA's keys, and Llama with them: either order may be meant."""
    save(one, tmp_path / "bare")
    bare = _edited(tmp_path / "bare", lambda root: [root.pop(key) for key in (*LATER, "vilam3")], lambda _: None)
    shutil.copytree(saved, tmp_path / "later")
    later = _edited(tmp_path / "later", lambda root: root.update(image_encoder=None), lambda _: None)
    for path, found in ((bare, "qwen2 language model in a file that lacks"), (later, "llama .* that has NVILA's keys")):
        with pytest.raises(CheckpointError, match=f"{found}.*--image-order column. or .row"):
            load(path)
    for order in ("column", "row"):
        convert(bare, tmp_path / order, layout="flat", stated=Stated(image_order=order))
        assert load(tmp_path / order).config.image_order == order


REFUSED: list[tuple[str, Edit, str]] = [
    ("tiles", lambda root: root.update(image_aspect_ratio="dynamic"), "--images resize"),
    ("tiles of scales", lambda root: root.update(image_aspect_ratio="dynamic_s2"), "--images resize"),
    ("scales", lambda root: root.update(dynamic_s2=True, s2_scales="448,x"), "must list the sides of dynamic_s2"),
    ("ps3", lambda root: root.update(ps3=True), "ps3=True: only False"),
    ("start", lambda root: root["image_encoder"].update(start_tokens="a"), "none for start_tokens"),
    ("encoder", lambda root: root.update(image_encoder='{"_target_": "other"}'), "only llava.model.encoders"),
    ("text", lambda root: root.update(image_encoder="{"), "not readable as JSON"),
    ("order", lambda root: root["vilam3"].update(image_order="spiral"), "image_order='spiral': unknown"),
]


@pytest.mark.parametrize(("edit", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_this_model_does_not_have_is_refused(one: Loaded, tmp_path: Path, edit: Edit, says: str) -> None:
    save(one, tmp_path / "model")
    with pytest.raises(CheckpointError, match=says):
        load(_edited(tmp_path / "model", edit, lambda _: None))


def test_blocks_that_know_rows_alone_take_no_other_order(qwen2: PieceTokenizer, tmp_path: Path) -> None:
    save(made_large(_config("mlp_downsample_3x3_fix"), qwen2), tmp_path / "model")
    with pytest.raises(CheckpointError, match="mlp_downsample_3x3_fix puts tokens in rows"):
        load(tmp_path / "model", stated=Stated(image_order="column"))


def test_sliding_attention_is_refused(one: Loaded, tmp_path: Path) -> None:
    save(one, tmp_path / "model")
    sliding = _edited(tmp_path / "model", lambda _: None, lambda llm: llm.update(use_sliding_window=True))
    with pytest.raises(CheckpointError, match="use_sliding_window"):
        load(sliding)


def test_a_base_in_tiles_is_used_whole_once_that_is_stated(one: Loaded, tmp_path: Path) -> None:
    save(one, tmp_path / "model")
    tiled = _edited(tmp_path / "model", lambda root: root.update(image_aspect_ratio="dynamic"), lambda _: None)
    convert(tiled, tmp_path / "whole", layout="folders", stated=Stated(images="resize"))
    assert load(tmp_path / "whole").config == replace(one.config, model_dtype="torch.float32")


def test_markers_of_media_without_an_embedding_are_ordinary_text(qwen2: PieceTokenizer, tmp_path: Path) -> None:
    """The published code adds them to a tokenizer after the embedding has got its size; ids before them stay."""
    size = len(qwen2) - 3
    config = _config("mlp_downsample").with_vocabulary(size, bos=None, eos=qwen2.eos_id, pad=qwen2.pad_id)
    save(Loaded(model=Vila(config), tokenizer=qwen2, config=config, template=template("qwen2")), tmp_path / "model")
    tokenizer = load(tmp_path / "model").tokenizer
    text = "<|im_start|>user\nIs <vila/video> there a tumor?<|im_end|>"
    assert len(tokenizer) == size
    assert max(tokenizer.encode_with_images(text)) < size <= max(qwen2.encode_with_images(text))
    assert tokenizer.decode(tokenizer.encode_with_images("<vila/video>")) == "<vila/video>"
    assert tokenizer.encode_with_images("tumor<|im_end|>") == qwen2.encode_with_images("tumor<|im_end|>")
    assert tokenizer.files == qwen2.files


def _as_a_tiled_one_of_unknown_order(root: dict[str, Any]) -> None:
    root.update(image_aspect_ratio="dynamic")
    for key in (*LATER, "vilam3"):
        del root[key]


def test_the_verbs_take_what_is_known_and_say_what_was_read(
    one: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(one, tmp_path / "model")
    path = str(_edited(tmp_path / "model", _as_a_tiled_one_of_unknown_order, lambda _: None))
    assert main(["model", "inspect", path]) == 2
    assert "--images resize" in capsys.readouterr().err
    words = ("--images", "resize", "--image-order", "row", "--template", "qwen2")
    assert main(["model", "convert", path, "--out", str(tmp_path / "base"), *words]) == 0
    assert main(["model", "inspect", str(tmp_path / "base")]) == 0
    printed = capsys.readouterr().out
    for fact in ("Qwen2, 2 layers", "mlp_downsample, 64 to 32", "row by row, then '\\n'", "template        qwen2"):
        assert fact in printed


@pytest.mark.parametrize("sides", ["56,112,168", [56, 112, 168]])
def test_one_scale_stands_for_those_that_the_projector_reads(
    qwen2: PieceTokenizer, pictures: tuple[Image.Image, ...], tmp_path: Path, sides: object
) -> None:
    """As the published code has it for a picture without tiles: its features once for every scale, side by side."""
    made = made_large(_config("mlp_downsample", scales=3), qwen2)
    save(made, tmp_path / "model")
    published = _edited(
        tmp_path / "model", lambda root: root.update(image_aspect_ratio="dynamic_s2", s2_scales=sides), lambda _: None
    )
    loaded = load(published, stated=Stated(images="resize"))
    assert (loaded.config.scales, loaded.config.merged_size) == (3, 4 * 3 * 16)
    pixels = pixels_NCHW(pictures[:1], loaded.config)
    assert pixels is not None
    with torch.no_grad():
        patches = loaded.model.vision_tower(pixels)
        tokens = loaded.model.mm_projector.layers(torch.cat([patches, patches, patches], dim=-1))
        assert torch.equal(loaded.model.encode_images(pixels), tokens)
    convert(published, tmp_path / "whole", layout="folders", stated=Stated(images="resize"))
    root = json.loads((tmp_path / "whole/config.json").read_text())
    assert (root["dynamic_s2"], root["image_aspect_ratio"], root["mm_hidden_size"]) == (True, "resize", 48)
    assert load(tmp_path / "whole").config.scales == 3


def test_a_template_that_is_not_known_is_not_guessed(one: Loaded, tmp_path: Path) -> None:
    """Qwen2's markers are those of hermes-2 as well; the tokenizer's own template tells, or the user."""
    save(one, tmp_path / "model")
    path = _edited(tmp_path / "model", lambda root: root.pop("vilam3"), lambda _: None)
    assert load(path).template.name == "qwen2"
    file = path / "llm/tokenizer_config.json"
    file.write_text(file.read_text().replace("You are a helpful assistant", "You are Qwen"))
    with pytest.raises(CheckpointError, match=r"chat_template=.*--template qwen2"):
        load(path)
    assert load(path, template="hermes-2").template.name == "hermes-2"
    convert(path, tmp_path / "stated", layout="flat", stated=Stated(template="qwen2"))
    assert load(tmp_path / "stated").template.name == "qwen2"


@pytest.mark.parametrize(
    ("name", "tokens", "hidden", "projector"),
    [
        ("nvila-8b", 256, 3584, "mlp_downsample"),
        ("nvila-video-8b", 256, 3584, "mlp_downsample_2x2_fix"),
        ("nvila-lite-2b", 121, 1536, "mlp_downsample_3x3_fix"),
        ("nvila-lite-8b", 121, 3584, "mlp_downsample_3x3_fix"),
        ("nvila-lite-15b", 121, 5120, "mlp_downsample_3x3_fix"),
    ],
)
def test_published_sizes(name: str, tokens: int, hidden: int, projector: str) -> None:
    config = VilaConfig.preset(name)  # type: ignore[arg-type]  # the parameter list is the type
    assert (config.tokens_per_image, config.llm.hidden_size, config.projector) == (tokens, hidden, projector)
    assert (config.image_order, config.image_end, config.template) == ("row", "\n", "qwen2")
