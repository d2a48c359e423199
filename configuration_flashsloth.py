# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Architecture of a FlashSloth model: every size, layer index and token id that the modeling file uses."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


# One modeling class serves several auto classes, but `register_for_auto_class` notes only one of them.
AUTO_MAP = {
    "AutoConfig": "configuration_flashsloth.FlashSlothConfig",
    "AutoModel": "modeling_flashsloth.FlashSlothModel",
    "AutoModelForCausalLM": "modeling_flashsloth.FlashSlothForCausalLM",
    "AutoModelForImageTextToText": "modeling_flashsloth.FlashSlothForCausalLM",
    "AutoModelForMultimodalLM": "modeling_flashsloth.FlashSlothForCausalLM",
}


@strict
class FlashSlothConfig(PreTrainedConfig):
    r"""
    Configuration of [`FlashSlothModel`] and [`FlashSlothForCausalLM`]. The defaults are those of the published
    FlashSloth-3.2B (https://huggingface.co/papers/2412.04317): SigLIP so400m at 384 pixels and Phi-2.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            The vision tower, a `siglip_vision_model`. Its depth is that of the layer whose output is used: the
            published models read the second-last of 27 layers, so 26 are kept.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            The decoder, a `phi` by default.
        pooling_mode (`str`, *optional*, defaults to `"attention"`):
            How a region of patches becomes one visual token: `"attention"` (Spatial Attention Pooling, paper section
            3.2), `"average"`, or `"none"` (every patch is a visual token).
        pooling_size (`int`, *optional*, defaults to 3):
            Side of the square region, in patches; 3 turns 27 x 27 patches into 9 x 9 visual tokens (paper section
            3.2).
        pooling_dropout (`float`, *optional*, defaults to 0.1):
            Dropout probability inside the pooling's score network, active in training only (published code). A
            checkpoint converted for exact comparison sets it to 0.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation between the projector's two linear layers (published config, `mm_projector_type`).
        num_query_tokens (`int`, *optional*, defaults to 9):
            Learnable query tokens after each instruction (paper section 3.3); 0 builds the model without the Embedded
            Query module.
        query_layer (`int`, *optional*, defaults to 7):
            Zero-based index of the decoder layer before which the query tokens attend to the un-pooled patches
            (published code).
        query_hidden_size (`int`, *optional*, defaults to 576):
            Width of the Embedded Query module's attention, in channels (published weights).
        query_num_heads (`int`, *optional*, defaults to 32):
            Attention heads of the Embedded Query module (published code: as many as the decoder has).
        query_base_token_id (`int`, *optional*, defaults to 764):
            Token whose embedding is added to every learned query vector: " ." of Phi-2 (published code).
        image_token_id (`int`, *optional*, defaults to 50297):
            Placeholder of one visual token (published tokenizer).
        query_slot_token_id (`int`, *optional*, defaults to 50295):
            `<learnable>`, which stands for a whole query slot in prompt text (published tokenizer). The processor
            replaces it; it never reaches the model.
        first_query_token_id (`int`, *optional*, defaults to 50299):
            `<query_0>`. The ids of the other query tokens follow it without a gap. They are distinct so that a slot
            is recognised whatever stands around it.
        image_suffix_length (`int`, *optional*, defaults to 1):
            Tokens between an image and its instruction: the line feed (published code).
        turn_prefix_length (`int`, *optional*, defaults to 2):
            Tokens between `</s>` and the next instruction: "USER" and ":" (published code).
        lm_head_bias (`bool`, *optional*, defaults to `True`):
            Whether the language-model head has a bias, as Phi's does.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new linear layers (published code).
        eos_token_id (`int`, *optional*, defaults to 50296):
            `</s>`, the end of an answer (published tokenizer).
        pad_token_id (`int`, *optional*, defaults to 50298):
            A token of its own: padding with the end token would freeze that token's embedding.
        bos_token_id (`int`, *optional*, defaults to 50256):
            Phi-2's `<|endoftext|>`; prompts do not start with it.
        original_config (`dict`, *optional*):
            The published `config.json` that a converted checkpoint came with, for `flashsloth convert --to-original`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If two fields contradict each other. The message is that of the
            `ValueError` behind it, and holds both values.

    Example:

    ```python
    >>> from flashsloth import FlashSlothConfig

    >>> config = FlashSlothConfig()
    >>> config.num_patches, config.num_visual_tokens
    (729, 81)
    ```
    """

    model_type = "flashsloth"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="siglip_vision_model",
            init_kwargs={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 26,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 14,
                "vision_use_head": False,
            },
        ),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="phi",
            init_kwargs={
                "vocab_size": 51200,
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "max_position_embeddings": 2048,
                "partial_rotary_factor": 0.4,
                "bos_token_id": 50256,
                "eos_token_id": 50296,
                "pad_token_id": 50298,
            },
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    pooling_mode: str = "attention"
    pooling_size: int = 3
    pooling_dropout: float | int = 0.1
    projector_hidden_act: str = "gelu"
    num_query_tokens: int = 9
    query_layer: int = 7
    query_hidden_size: int = 576
    query_num_heads: int = 32
    query_base_token_id: int | None = 764
    image_token_id: int = 50297
    query_slot_token_id: int = 50295
    first_query_token_id: int = 50299
    image_suffix_length: int = 1
    turn_prefix_length: int = 2
    lm_head_bias: bool = True
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    eos_token_id: int | list[int] | None = 50296
    pad_token_id: int | None = 50298
    bos_token_id: int | None = 50256
    original_config: dict | None = None

    def __post_init__(self, **kwargs):
        self._refuse_derived(kwargs)
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        cls._refuse_derived(kwargs)
        config = super().from_dict(config_dict, **kwargs)
        # the library sets `kwargs` after it has checked the rest
        (config[0] if isinstance(config, tuple) else config).validate_architecture()
        return config

    @classmethod
    def _refuse_derived(cls, fields: dict):
        """Raises a `ValueError` if one of the fields is a property, which follows from other fields."""
        derived = [name for name in fields if isinstance(vars(cls).get(name), property)]
        if derived:
            raise ValueError(f"{derived[0]}={fields[derived[0]]!r} cannot be set: it follows from other fields.")

    @property
    def grid_size(self) -> int:
        """Patches along one side of a view."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def num_patches(self) -> int:
        """Un-pooled visual features per view."""
        return self.grid_size**2

    @property
    def num_visual_tokens(self) -> int:
        """Visual tokens per view: what one view costs in the decoder's sequence."""
        return self.num_patches if self.pooling_mode == "none" else (self.grid_size // self.pooling_size) ** 2

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end an answer."""
        return self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]

    @property
    def query_token_ids(self) -> list[int]:
        """Ids of the query tokens, in their order within a slot."""
        return list(range(self.first_query_token_id, self.first_query_token_id + self.num_query_tokens))

    @property
    def placeholder_token_ids(self) -> list[int]:
        """Ids that stand for something else than text, and that generation must never emit."""
        return [self.query_slot_token_id, self.image_token_id, self.pad_token_id, *self.query_token_ids]

    def validate_architecture(self):
        """Part of `@strict`: checks the fields against each other."""
        if self.pooling_mode not in ("attention", "average", "none"):
            raise ValueError(f"pooling_mode must be 'attention', 'average' or 'none', got {self.pooling_mode!r}.")
        vision, text = self.vision_config, self.text_config
        if not 1 <= vision.patch_size <= vision.image_size:
            raise ValueError(f"patch_size={vision.patch_size} must be 1 to image_size={vision.image_size}.")
        for name, tower in (("vision_config", vision), ("text_config", text)):
            if tower.num_attention_heads < 1 or tower.hidden_size % tower.num_attention_heads:
                raise ValueError(
                    f"{name}.num_attention_heads={tower.num_attention_heads} must divide its "
                    f"hidden_size={tower.hidden_size}."
                )
        if self.pooling_mode != "none" and (self.pooling_size < 1 or self.grid_size % self.pooling_size):
            raise ValueError(
                f"pooling_size={self.pooling_size} must divide the patch grid of {self.grid_size} x {self.grid_size} "
                f"(image_size {self.vision_config.image_size} // patch_size {self.vision_config.patch_size})."
            )
        self._validate_token_ids()
        if not 0 <= self.pooling_dropout < 1:
            raise ValueError(f"pooling_dropout={self.pooling_dropout} must be 0 or more and below 1.")
        for name, count in (
            ("num_query_tokens", self.num_query_tokens),
            ("image_suffix_length", self.image_suffix_length),
            ("turn_prefix_length", self.turn_prefix_length),
        ):
            if count < 0:
                raise ValueError(f"{name} must be 0 or more, got {count}.")
        if self.num_query_tokens == 0:
            return
        if not 0 <= self.query_layer < self.text_config.num_hidden_layers:
            raise ValueError(
                f"query_layer={self.query_layer} is outside the decoder, whose layers are "
                f"0 to {self.text_config.num_hidden_layers - 1}."
            )
        for name, width in (
            ("query_hidden_size", self.query_hidden_size),
            ("vision_config.hidden_size", self.vision_config.hidden_size),
        ):
            if width < 1 or self.query_num_heads < 1 or width % self.query_num_heads:
                raise ValueError(f"query_num_heads={self.query_num_heads} must divide {name}={width}.")

    def _validate_token_ids(self):
        vocab_size = self.text_config.vocab_size
        placeholders = {
            "image_token_id": self.image_token_id,
            "query_slot_token_id": self.query_slot_token_id,
            "pad_token_id": self.pad_token_id,
        }
        token_ids = dict(placeholders)
        if self.bos_token_id is not None:
            token_ids["bos_token_id"] = self.bos_token_id
        if not self.eos_token_ids:
            raise ValueError("eos_token_id is an empty list: name at least one token that ends an answer.")
        if self.num_query_tokens:
            token_ids["first_query_token_id"] = self.first_query_token_id
            token_ids["the last query token"] = self.first_query_token_id + self.num_query_tokens - 1
            if self.query_base_token_id is not None:
                token_ids["query_base_token_id"] = self.query_base_token_id
        for name, token_id in [*token_ids.items(), *(("eos_token_id", token_id) for token_id in self.eos_token_ids)]:
            if token_id is None or not 0 <= token_id < vocab_size:
                raise ValueError(f"{name}={token_id} is outside the vocabulary of {vocab_size} tokens.")
        taken = [*placeholders.values(), *self.eos_token_ids]
        for name, token_id in placeholders.items():
            if taken.count(token_id) > 1:
                raise ValueError(f"{name}={token_id} must be a token of its own, not another placeholder or the end.")
        clash = set(self.query_token_ids).intersection(taken)
        if clash:
            raise ValueError(
                f"Token id {min(clash)} is both a query token (first_query_token_id={self.first_query_token_id}, "
                f"num_query_tokens={self.num_query_tokens}) and another placeholder."
            )


FlashSlothConfig.register_for_auto_class()

__all__ = ["FlashSlothConfig"]
