"""The configuration as transformers and vLLM read it, made of vilam3's own."""

from typing import Any

from transformers import LlamaConfig, PreTrainedConfig, SiglipVisionConfig

from vilam3.model.config import VilaConfig
from vilam3.model.config_files import parse_config


class VilaM3Config(PreTrainedConfig):
    """``config.json`` of the directory that `vilam3_vllm.layout` writes: the published sections under vLLM's names."""

    model_type = "vilam3"
    sub_configs = {"text_config": LlamaConfig, "vision_config": SiglipVisionConfig}  # noqa: RUF012 - transformers' own way

    def __init__(
        self,
        *,
        text_config: dict[str, Any] | None = None,
        vision_config: dict[str, Any] | None = None,
        vila: dict[str, Any] | None = None,
        image_token_id: int = 0,
        **others: Any,  # noqa: ANN401 - transformers' own fields
    ) -> None:
        """Take the sections.

        Args:
            text_config: ``llm/config.json``.
            vision_config: ``vision_tower/config.json``.
            vila: The root ``config.json``.
            image_token_id: Stands for a picture's positions in a prompt; no text has it.
            others: Of transformers.
        """
        self.text_config = LlamaConfig(**(text_config or {}))
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        self.vila = vila or {}
        self.image_token_id = image_token_id
        super().__init__(**others)

    def get_text_config(self, *_: object, **__: object) -> LlamaConfig:
        """The language model's part."""
        return self.text_config

    def parsed(self) -> VilaConfig:
        """As the rest of vilam3 knows it."""
        return parse_config(
            self.vila, self.vila["llm_cfg"], self.vila["vision_tower_cfg"], self.vila["mm_projector_cfg"]
        )
