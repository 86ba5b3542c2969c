"""VILA-M3 as an out-of-tree model of vLLM."""

ARCHITECTURE = "VilaM3ForConditionalGeneration"


def register() -> None:
    """Make the model and its configuration known; vLLM calls this in each of its processes, maybe twice."""
    from transformers import AutoConfig  # noqa: PLC0415 - a plug-in is imported before vLLM has set itself up
    from vllm import ModelRegistry  # noqa: PLC0415 - likewise

    from vilam3_vllm.config import VilaM3Config  # noqa: PLC0415 - likewise

    AutoConfig.register(VilaM3Config.model_type, VilaM3Config, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.network:{ARCHITECTURE}")
