"""A checkpoint in the layout that vLLM reads: one directory of links to the published files, and one config.json.

Nothing is copied. vLLM renames the tensors as it reads them; see `vilam3_vllm.network`.
"""

import json
import sys
from pathlib import Path

from vilam3.artifacts import whole_directory
from vilam3.errors import CheckpointError
from vilam3.model.checkpoint import PARTS, layout_of, read_config
from vilam3.model.config import VilaConfig, VisionConfig
from vilam3.model.tokenizer import TOKENIZER_FILES, PieceTokenizer, load_tokenizer
from vilam3_vllm import ARCHITECTURE


def write(checkpoint: Path, out: Path) -> Path:
    """Write the directory whole and return it.

    Args:
        checkpoint: In either layout of vilam3.
        out: Must not exist.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    checkpoint = checkpoint.resolve()
    is_flat = layout_of(checkpoint) == "flat"
    tokenizer_folder = checkpoint if is_flat else checkpoint / "llm"
    described = _described(read_config(checkpoint), load_tokenizer(tokenizer_folder), where=checkpoint)
    with whole_directory(out) as folder:
        (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True), encoding="utf-8")
        for part in ("",) if is_flat else PARTS:
            for file in sorted((checkpoint / part).glob("*.safetensors")):
                (folder / f"{part}-{file.name}".removeprefix("-")).symlink_to(file)
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                (folder / name).symlink_to(tokenizer_folder / name)
    return out


def image_token_id(tokenizer: PieceTokenizer) -> int | None:
    """The token that stands for pictures: padding, which no prompt of ours holds."""
    return tokenizer.pad_id


def _refuse_what_vllm_lacks(config: VilaConfig, *, where: Path) -> None:
    """The plug-in is the network of VILA 1.5 with SigLIP and Llama; others run on vilam3's own engine."""
    parts = (config.llm.family, config.vision.model_type, config.projector)
    if (*parts, config.image_order, config.scales) != ("llama", VisionConfig.model_type, "mlp_downsample", "column", 1):
        raise CheckpointError(
            f"{where}: a {config.llm.family} language model behind a {config.vision.model_type} tower and "
            f"{config.projector} in order of {config.image_order}s is not served by vLLM; serve it with --engine torch"
        )


def _described(config: VilaConfig, tokenizer: PieceTokenizer, *, where: Path) -> dict[str, object]:
    _refuse_what_vllm_lacks(config, where=where)
    token = image_token_id(tokenizer)
    if token is None:
        raise CheckpointError(f"{where}: its tokenizer has no padding token, which vLLM needs to stand for pictures")
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "vilam3",
        "text_config": config.llm_json(),
        "vision_config": config.vision_json(),
        "vila": config.root_json(),
        "image_token_id": token,
        "dtype": config.model_dtype.removeprefix("torch."),
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
