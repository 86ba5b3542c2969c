"""How many weights a network has and what they compute, from its configuration alone; knows no tensors.

Multiplications and additions are counted apart, so a matrix of W weights costs 2 W operations a position. Attention
between positions is counted at its causal half.
"""

from dataclasses import dataclass

from vilam3.model.config import InternVisionConfig, LlmConfig, TowerConfig, VilaConfig, VisionConfig
from vilam3.settings import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Weights of each part.

    Attributes:
        vision_tower: All that a checkpoint holds, with an unused last layer and a pooling head where there is one.
        mm_projector: The MLP and its norms.
        llm: With input and output embeddings.
    """

    vision_tower: int
    mm_projector: int
    llm: int

    @property
    def total(self) -> int:
        """Of the whole network."""
        return self.vision_tower + self.mm_projector + self.llm

    def of(self, part: Part) -> int:
        """Of one part."""
        found: int = getattr(self, part)
        return found


def sizes(config: VilaConfig) -> Sizes:
    """Count the weights."""
    return Sizes(
        vision_tower=_vision_weights(config.vision),
        mm_projector=_projector_weights(config),
        llm=_llm_weights(config.llm),
    )


def llm_operations(llm: LlmConfig, *, length: float) -> float:
    """Operations of one position's forward pass in a sequence of `length` positions, output layer included."""
    matrices = llm.num_hidden_layers * _llm_layer_matrices(llm) + llm.hidden_size * llm.vocab_size
    attention = llm.num_hidden_layers * 2 * length * llm.hidden_size  # half of the positions see half of the others
    return 2 * matrices + attention


def low_rank_weights(llm: LlmConfig, *, rank: int, has_lengths: bool = False) -> int:
    """Of the products beside every matrix of the layers: `rank` times both sides of each, and a length for each row."""
    hidden, inner = llm.hidden_size, llm.intermediate_size
    inputs = 4 * hidden + 2 * hidden + inner  # query, key, value, output; gate, up; down
    return llm.num_hidden_layers * (rank * (inputs + adapted_rows(llm)) + has_lengths * adapted_rows(llm))


def gated_weights(llm: LlmConfig, *, products: int, routes: int, rank: int) -> int:
    """Of task-gated adapters: `products` of this rank beside every matrix of the layers, and `routes` router scores."""
    inputs = 6 * llm.hidden_size + llm.intermediate_size
    return low_rank_weights(llm, rank=products * rank) + llm.num_hidden_layers * routes * inputs


def adapted_rows(llm: LlmConfig) -> int:
    """Rows of all matrices of a layer."""
    heads = llm.hidden_size // llm.num_attention_heads * llm.num_key_value_heads
    return 2 * llm.hidden_size + 2 * heads + 2 * llm.intermediate_size + llm.hidden_size


def image_operations(config: VilaConfig) -> tuple[float, float]:
    """Operations of one image's forward pass through the tower, as far as it is run, and through the projector."""
    vision, width = config.vision, config.vision.hidden_size
    patches = vision.grid**2
    tokens = patches + isinstance(vision, InternVisionConfig)  # with its class token
    layers = vision.num_hidden_layers + 1 + config.select_layer
    matrices = layers * (4 * width**2 + 2 * width * vision.intermediate_size)
    embedding = vision.num_channels * vision.patch_size**2 * width
    tower = patches * 2 * embedding + tokens * (2 * matrices + layers * 4 * tokens * width)
    return tower, config.tokens_per_image * 2 * sum(one * other for one, other in _projector_matrices(config))


def _llm_weights(llm: LlmConfig) -> int:
    norms = (2 * llm.num_hidden_layers + 1) * llm.hidden_size
    head = llm.hidden_size // llm.num_attention_heads
    biases = llm.num_hidden_layers * (llm.hidden_size + 2 * head * llm.num_key_value_heads)
    embeddings = llm.vocab_size * llm.hidden_size * (1 if llm.tie_word_embeddings else 2)
    return llm.num_hidden_layers * _llm_layer_matrices(llm) + norms + embeddings + biases * (llm.family == "qwen2")


def _llm_layer_matrices(llm: LlmConfig) -> int:
    hidden, head = llm.hidden_size, llm.hidden_size // llm.num_attention_heads
    attention = 2 * hidden**2 + 2 * hidden * head * llm.num_key_value_heads
    return attention + 3 * hidden * llm.intermediate_size


def _vision_weights(vision: TowerConfig) -> int:
    return _intern_weights(vision) if isinstance(vision, InternVisionConfig) else _siglip_weights(vision)


def _siglip_weights(vision: VisionConfig) -> int:
    width, inner = vision.hidden_size, vision.intermediate_size
    embeddings = vision.num_channels * vision.patch_size**2 * width + width + vision.grid**2 * width
    attention, norm = 4 * (width**2 + width), 2 * width
    mlp = 2 * width * inner + inner + width
    layers = vision.num_hidden_layers * (attention + mlp + 2 * norm)
    pooling = width + attention + mlp + norm  # a learned query that attends to the patches
    return embeddings + layers + norm + pooling * vision.vision_use_head


def _intern_weights(vision: InternVisionConfig) -> int:
    width, inner = vision.hidden_size, vision.intermediate_size
    embeddings = vision.num_channels * vision.patch_size**2 * width + width + width + (vision.grid**2 + 1) * width
    attention = 4 * width**2 + width + 3 * width * vision.qkv_bias + 2 * width * vision.qk_normalization
    mlp, norms, scales = 2 * width * inner + inner + width, 2 * width, 2 * width
    return embeddings + vision.num_hidden_layers * (attention + mlp + norms + scales)


def _projector_weights(config: VilaConfig) -> int:
    """Matrices with their biases, and a norm before each but the last; the two-layer one has but the first norm."""
    matrices = _projector_matrices(config)
    normed = [entering for entering, _ in matrices[:-1]]
    return sum((entering + 1) * leaving for entering, leaving in matrices) + 2 * sum(normed)


def _projector_matrices(config: VilaConfig) -> list[tuple[int, int]]:
    """Widths that enter and leave each matrix."""
    merged, hidden = config.merged_size, config.llm.hidden_size
    if config.projector == "mlp_downsample_3x3_fix":
        between = 3 * config.read_size
        return [(merged, between), (between, hidden), (hidden, hidden)]
    return [(merged, hidden), (hidden, hidden)]
