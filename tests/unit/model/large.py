"""Networks whose weights are large enough that a mistake moves the logits."""

import torch

from vilam3.model.checkpoint import Loaded, fresh
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import PieceTokenizer


def made_large(config: VilaConfig, tokenizer: PieceTokenizer) -> Loaded:
    """Random weights, biases among them, large enough that a mistake moves the logits."""
    torch.manual_seed(0)
    made = fresh(config, tokenizer)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.2)
    made.model.eval()
    return made
