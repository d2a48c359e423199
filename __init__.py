# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""FlashSloth: small, fast vision-language models for transformers.

Importing the package is cheap: torch and transformers are imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from flashsloth.assistant.assistant import load
    from flashsloth.configuration_flashsloth import FlashSlothConfig
    from flashsloth.image_processing_flashsloth import FlashSlothImageProcessor
    from flashsloth.modeling_flashsloth import FlashSlothForCausalLM, FlashSlothModel
    from flashsloth.processing_flashsloth import FlashSlothProcessor

__version__ = "0.1.0"

__all__ = [
    "FlashSlothConfig",
    "FlashSlothForCausalLM",
    "FlashSlothImageProcessor",
    "FlashSlothModel",
    "FlashSlothProcessor",
    "load",
    "register_auto_classes",
]

# Public name -> the module of this package that defines it.
_MODULES = {
    "FlashSlothConfig": "configuration_flashsloth",
    "FlashSlothForCausalLM": "modeling_flashsloth",
    "FlashSlothImageProcessor": "image_processing_flashsloth",
    "FlashSlothModel": "modeling_flashsloth",
    "FlashSlothProcessor": "processing_flashsloth",
    "load": "assistant.assistant",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def register_auto_classes() -> None:
    """
    Tells the Auto classes of transformers to use this package for `model_type` "flashsloth", so that a saved folder
    loads without running the code inside it (no `trust_remote_code`). Calling it again changes nothing.

    Example:

    ```python
    >>> import flashsloth
    >>> from transformers import AutoModelForImageTextToText, AutoProcessor

    >>> flashsloth.register_auto_classes()
    >>> processor = AutoProcessor.from_pretrained("path/to/folder")
    >>> model = AutoModelForImageTextToText.from_pretrained("path/to/folder")
    ```
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor
    from transformers.utils import is_torch_available

    from flashsloth.configuration_flashsloth import FlashSlothConfig
    from flashsloth.image_processing_flashsloth import FlashSlothImageProcessor
    from flashsloth.processing_flashsloth import FlashSlothProcessor

    AutoConfig.register(FlashSlothConfig.model_type, FlashSlothConfig, exist_ok=True)
    AutoImageProcessor.register(
        FlashSlothConfig, image_processor_classes={"pil": FlashSlothImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(FlashSlothConfig, FlashSlothProcessor, exist_ok=True)
    if is_torch_available():  # exported models run without it
        _register_models(FlashSlothConfig)


def _register_models(config_class: type) -> None:
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
    )

    from flashsloth.modeling_flashsloth import FlashSlothForCausalLM, FlashSlothModel

    AutoModel.register(config_class, FlashSlothModel, exist_ok=True)
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(config_class, FlashSlothForCausalLM, exist_ok=True)
