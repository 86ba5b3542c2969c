"""The tower of the 40B model against transformers' own InternViT, and behind the same configuration as SigLIP."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional
from transformers import InternVLVisionConfig, InternVLVisionModel

from vilam3.errors import CheckpointError
from vilam3.model.checkpoint import fresh, load, save
from vilam3.model.config import InternVisionConfig, VilaConfig
from vilam3.model.engine import TorchEngine
from vilam3.model.images import pixels_NCHW
from vilam3.model.intern_vit import InternTower
from vilam3.model.tokenizer import PieceTokenizer
from vilam3.train.step import normalise_pixels

# Our published names, and those under which transformers holds the same tensors; q, k and v are one matrix in ours.
NAMES = {
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "mlp.": "mlp.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
}


@pytest.fixture(scope="module")
def intern(config: VilaConfig) -> VilaConfig:
    """4x4 patches and a class token."""
    vision = InternVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, image_size=56
    )
    return replace(config, vision=vision, select_layer=-1)


@pytest.fixture(scope="module")
def tower(intern: VilaConfig) -> InternTower:
    torch.manual_seed(5)
    made = InternTower(intern).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return made


def _elsewhere(tower: InternTower) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in tower.state_dict().items():
        if name.startswith("embeddings."):
            kinds = {"class_embedding": "cls_token", "position_embedding": "position_embeddings"}
            patch = name.replace("patch_embedding", "patch_embeddings.projection")
            renamed[f"embeddings.{kinds[name[11:]]}" if name[11:] in kinds else patch] = tensor
            continue
        layer, inside = name.removeprefix("encoder.layers.").split(".", 1)
        where = f"encoder.layer.{layer}"
        if inside == "attn.qkv.weight":
            parts = zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True)
            renamed |= {f"{where}.attention.{part}.weight": chunk for part, chunk in parts}
            continue
        old = next(old for old in NAMES if inside.startswith(old))
        renamed[f"{where}.{inside.replace(old, NAMES[old], 1)}"] = tensor
    return renamed


@torch.no_grad()
def test_the_feature_is_the_last_hidden_state_without_the_class_token(intern: VilaConfig, tower: InternTower) -> None:
    vision = intern.vision
    reference = InternVLVisionModel(
        InternVLVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            use_qk_norm=True,
            norm_type="rms_norm",
            attn_implementation="eager",
        )
    ).eval()
    reference.load_state_dict(_elsewhere(tower))  # its last norm, which averages over patches, is nothing
    pixels = torch.randn(2, 3, vision.image_size, vision.image_size)
    expected = reference(pixels).last_hidden_state[:, 1:]
    features = tower(pixels)
    assert features.shape == (2, vision.grid**2, vision.hidden_size)
    assert (features - expected).abs().max() < 1e-4


def test_tensors_have_the_published_names(tower: InternTower) -> None:
    names = set(tower.state_dict())
    layer = {name.removeprefix("encoder.layers.2.") for name in names if name.startswith("encoder.layers.2.")}
    assert layer == {
        "attn.qkv.weight", "attn.q_norm.weight", "attn.k_norm.weight", "attn.proj.weight", "attn.proj.bias",
        "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias", "norm1.weight", "norm2.weight", "ls1",
        "ls2",
    }  # fmt: skip
    assert {name for name in names if name.startswith("embeddings.")} == {
        "embeddings.class_embedding", "embeddings.position_embedding", "embeddings.patch_embedding.weight",
        "embeddings.patch_embedding.bias",
    }  # fmt: skip


def test_pixels_are_the_published_ones(intern: VilaConfig, pictures: tuple[Image.Image, ...]) -> None:
    """ImageNet's mean and deviation, by torchvision as the published code; training makes the same bits as serving."""
    size = intern.vision.image_size
    square = pictures[0].resize((size, size))
    expected = functional.normalize(functional.to_tensor(square), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    made = pixels_NCHW(pictures[:1], intern)
    assert made is not None
    assert (made[0] - expected).abs().max() < 1e-6
    raw = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]
    assert torch.equal(normalise_pixels(raw, intern.vision), made)


def test_it_is_saved_loaded_and_asked_as_any_other(
    intern: VilaConfig, tokenizer: PieceTokenizer, pictures: tuple[Image.Image, ...], tmp_path: Path
) -> None:
    torch.manual_seed(6)
    made = fresh(intern, tokenizer)
    made.model.eval()
    save(made, tmp_path / "model")
    parts = (tmp_path / "model", tmp_path / "model/vision_tower")
    root, vision = (json.loads((part / "config.json").read_text()) for part in parts)
    assert (root["mm_vision_select_layer"], root["mm_vision_select_feature"]) == (-1, "patch")
    assert (vision["model_type"], vision["architectures"]) == ("intern_vit_6b", ["InternVisionModel"])
    again = load(tmp_path / "model")
    assert again.config.vision == intern.vision
    assert again.unexpected == ()
    ids = tokenizer.encode_with_images("a <image> tumor?")
    engines = TorchEngine(made), TorchEngine(again)
    ours, theirs = (engine.trace(ids, pictures[:1], max_new=4) for engine in engines)
    assert ours.ids == theirs.ids
    assert torch.equal(torch.stack(ours.logprobs_TV), torch.stack(theirs.logprobs_TV))
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("hidden_act", "relu", "only 'gelu' is supported"), ("num_attention_heads", 5, "not a multiple of")],
)
def test_another_intern_vit_is_refused(
    intern: VilaConfig, tokenizer: PieceTokenizer, tmp_path: Path, key: str, value: object, says: str
) -> None:
    save(fresh(intern, tokenizer), tmp_path / "model")
    file = tmp_path / "model/vision_tower/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path / "model", verify=False)


def test_the_published_size_is_the_published_one() -> None:
    """11.1 GB in half precision, by the model's page; 45 layers, 32x32 patches merged to 256 tokens."""
    config = VilaConfig.preset("40b")
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in InternTower(config).parameters())
    assert 2 * weights / 1e9 == pytest.approx(11.1, abs=0.05)
    assert (config.tokens_per_image, config.merged_size, config.template) == (256, 12800, "hermes-2")
