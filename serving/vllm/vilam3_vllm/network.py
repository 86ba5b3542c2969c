"""The network on vLLM's layers: its SigLIP tower and Llama, and vilam3's own projector between them.

Only what vLLM declares abstract is overridden, so that a new minor version is likely to fail loudly.
Legend: N images, S side of a picture, P patches, C vision width, K positions of an image, H width.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature
from vllm.config import VllmConfig
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsLoRA,
    SupportsMultiModal,
    SupportsPP,
)
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.siglip import SiglipVisionModel
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.sequence import IntermediateTensors

from vilam3.model.config import VilaConfig
from vilam3.model.images import pixels_CHW
from vilam3.model.projector import Projector
from vilam3_vllm.config import VilaM3Config

PIXELS = "pixels_NCHW"


class Pictures:
    """In the place of a processor of transformers: pictures to the tower's input, as everywhere in vilam3."""

    def __init__(self, config: VilaConfig) -> None:
        """Prepare pictures for a network."""
        self.config = config

    def __call__(self, images: Sequence[Image.Image] = (), **_: object) -> BatchFeature:
        """Normalised pixels under the name that the network takes."""
        made = [pixels_CHW(image, self.config) for image in images]
        return BatchFeature({PIXELS: torch.stack(made)} if made else {})


class Info(BaseProcessingInfo):
    """What vLLM asks about pictures."""

    def config(self) -> VilaM3Config:
        """Of the model."""
        config: VilaM3Config = self.ctx.get_hf_config(VilaM3Config)
        return config

    def get_hf_processor(self, **_: object) -> Pictures:
        """Prepares pictures."""
        return Pictures(self.config().parsed())

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of pictures."""
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:  # noqa: ARG002 - of vLLM
        """Every picture takes the same."""
        return {"image": self.config().parsed().tokens_per_image}


class Dummies(BaseDummyInputsBuilder[Info]):
    """The largest input, by which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """The placeholders alone."""
        token: str = self.info.get_tokenizer().convert_ids_to_tokens(self.info.config().image_token_id)
        return token * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self,
        seq_len: int,  # noqa: ARG002 - of vLLM
        mm_counts: Mapping[str, int],
        mm_options: Mapping[str, MultiModalDummyOptions],
    ) -> MultiModalDataDict:
        """Pictures of the tower's own size."""
        side = self.info.config().vision_config.image_size
        images = self._get_dummy_images(
            width=side, height=side, num_images=mm_counts.get("image", 0), overrides=mm_options.get("image")
        )
        return {"image": images}


class Processor(BaseMultiModalProcessor[Info]):
    """Where pictures go in a prompt."""

    def _get_mm_fields_config(
        self,
        hf_inputs: BatchFeature,  # noqa: ARG002 - of vLLM
        hf_processor_mm_kwargs: Mapping[str, object],  # noqa: ARG002 - likewise
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {PIXELS: MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,  # noqa: ARG002 - of vLLM
        hf_processor_mm_kwargs: Mapping[str, object],  # noqa: ARG002 - likewise
        out_mm_kwargs: MultiModalKwargsItems,  # noqa: ARG002 - likewise
    ) -> Sequence[PromptUpdate]:
        config = self.info.config()
        token, count = config.image_token_id, config.parsed().tokens_per_image
        return [PromptReplacement(modality="image", target=[token], replacement=[token] * count)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Dummies)
class VilaM3ForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsLoRA, SupportsPP):
    """VILA 1.5 as VILA-M3 uses it."""

    vision_tower: Any
    mm_projector: Projector
    language_model: Any
    packed_modules_mapping = {  # noqa: RUF012 - of vLLM
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    # Three folders hold three namespaces that do not overlap; the flat layout prefixes them.
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "llm.model.": "language_model.model.",
            "llm.lm_head.": "language_model.lm_head.",
            "model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
            "vision_model.": "vision_tower.vision_model.",
            "layers.": "mm_projector.layers.",
        }
    )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:  # noqa: ARG003 - of vLLM
        """For vLLM's own chat templates; vilam3's prompts are made of token ids."""
        return "<image>" if modality == "image" else None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build it without weights."""
        super().__init__()
        self.config: VilaM3Config = vllm_config.model_config.hf_config
        parsed = self.config.parsed()
        mixin: SupportsMultiModal = self  # torch's own types would take its methods for tensors
        mixin.configure_mm_token_handling(vocab_size=parsed.llm.vocab_size, mm_token_ids=[self.config.image_token_id])
        with mixin._mark_tower_model(vllm_config, "image"):  # noqa: SLF001 - how vLLM's own models do it
            self.vision_tower = SiglipVisionModel(
                self.config.vision_config,
                quant_config=vllm_config.quant_config,
                num_hidden_layers_override=parsed.vision.num_hidden_layers + 1 + parsed.select_layer,
                require_post_norm=False,
                prefix=maybe_prefix(prefix, "vision_tower"),
            )
            self.mm_projector = Projector(parsed)
        with mixin._mark_language_model(vllm_config):  # noqa: SLF001 - likewise
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=self.config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **given: object) -> MultiModalEmbeddings:
        """(N, 3, S, S) -> (N, K, H)."""
        pixels_NCHW = given.get(PIXELS)
        if not isinstance(pixels_NCHW, Tensor):
            return []
        patches_NPC = self.vision_tower(pixels_NCHW.to(self.vision_tower.dtype))
        return self.mm_projector(patches_NPC)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **_: object,
    ) -> Tensor | IntermediateTensors:
        """The language model; pictures are among the embeddings already."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Of the next token."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take the tensors of a checkpoint."""
        loader = AutoWeightsLoader(self)
        loaded: set[str] = loader.load_weights(weights, mapper=self.hf_to_vllm_mapper)
        return loaded

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which part is which, for LoRA."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="mm_projector", tower_model="vision_tower"
        )
