"""A Hugging Face folder's ``config.json`` -> our model, or the name of what in it we do not compute. No torch, nothing executed."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError, error_type
from fanal.shown import shown
from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.token_ids import token_ids

CONFIG_JSON = "config.json"
MODEL_TYPES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
"""Architectures that are Llama's, and the model_type each goes with."""
MISTRAL_WINDOW = 4096
"""sliding_window of a Mistral whose config does not state it."""
LLAMA_ROPE_THETA = 10_000.0
"""rope_theta of a config that does not state it: those of Llama 1 and 2."""
LARGEST = sys.float_info.max
"""JSON has larger integers, of which float() makes an error."""


class UnsupportedModelError(UserError):
    """A Hugging Face folder that is none of the models we have; the message names what is different."""


@dataclass(frozen=True, kw_only=True)
class HfModel:
    """What a ``config.json`` says."""

    model: ModelConfig
    max_positions: int
    """Longest sequence the model was made for, in tokens."""
    content: dict[str, Any]
    """The file as it was."""


def read_hf_config(folder: Path, *, make_vocab_size_divisible_by: int = 128) -> HfModel:
    """The model of a Hugging Face folder.

    Raises: UnsupportedModelError naming the key, its value and what is supported; TokenIdError.
    """
    path = folder / CONFIG_JSON
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise error_type(error, UnsupportedModelError)(
            f"HF_DIR ({folder}) must be a Hugging Face model's folder, and its {CONFIG_JSON} cannot be read ({error.strerror})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path} must hold an object; it holds a {type(content).__name__}")
    fields = _Fields(path, content)
    _refuse_other_architectures(fields)
    _refuse_other_arithmetic(fields)
    model = _model(fields, make_vocab_size_divisible_by)
    max_positions = fields.size("max_position_embeddings")
    _refuse_sliding_window(fields, max_positions)
    token_ids(content, path, vocab_size=model.vocab_size)
    return HfModel(model=model, max_positions=max_positions, content=content)


@dataclass(frozen=True)
class _Fields:
    path: Path
    content: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """A value; null counts as not stated."""
        value = self.content.get(name)
        return default if value is None else value

    def refuse(self, name: str, value: object, rule: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{name} ({shown(value, 120)}) of {self.path} {rule}")

    def size(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise self.refuse(name, value, "must be stated, as an integer above 0")
        return value

    def number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            raise self.refuse(name, value, "must be stated, as a number above 0")
        return float(value)


def _refuse_other_architectures(fields: _Fields) -> None:
    if fields.get("auto_map"):
        raise fields.refuse("auto_map", fields.get("auto_map"), "names code of the folder's own, which is never run")
    stated = fields.get("architectures", [])
    supported = " and ".join(MODEL_TYPES)
    if not isinstance(stated, list) or len(stated) != 1 or stated[0] not in list(MODEL_TYPES):
        raise fields.refuse("architectures", stated, f"must be one that is supported: {supported}")
    expected, model_type = MODEL_TYPES[stated[0]], fields.get("model_type")
    if model_type not in (None, expected):
        raise fields.refuse("model_type", model_type, f"must be {expected!r}, which goes with {stated[0]}")
    if fields.get("quantization_config"):
        raise fields.refuse(
            "quantization_config", fields.get("quantization_config"), "is not supported: take the unquantized weights"
        )


def _refuse_other_arithmetic(fields: _Fields) -> None:
    """What would make another model of the same weights. pretraining_tp is not among it: it orders sums, and that is all."""
    for name, needed in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        value = fields.get(name, needed)
        if value != needed:
            raise fields.refuse(name, value, f"is not supported; {needed!r} is")
    for name in ("rope_scaling", "rope_parameters"):
        stated = fields.get(name, {})
        if not isinstance(stated, dict):
            raise fields.refuse(name, stated, "must be an object")
        kinds = [stated.get(key, "default") for key in ("rope_type", "type")]
        if kinds != ["default", "default"] or set(stated) - {
            "rope_type",
            "type",
            "rope_theta",
            "partial_rotary_factor",
        }:
            raise fields.refuse(
                name, stated, "changes the rotary positions, which is not supported; rope_type 'default' is"
            )
        if stated.get("partial_rotary_factor", 1.0) != 1.0:
            raise fields.refuse(
                f"{name}.partial_rotary_factor", stated["partial_rotary_factor"], "is not supported; 1.0 is"
            )
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise fields.refuse("partial_rotary_factor", fields.get("partial_rotary_factor"), "is not supported; 1.0 is")


def _refuse_sliding_window(fields: _Fields, max_positions: int) -> None:
    """A window that no sequence outgrows hides nothing."""
    is_mistral = fields.content["architectures"] == ["MistralForCausalLM"]
    stated = fields.content.get("sliding_window", MISTRAL_WINDOW if is_mistral else None)
    if stated is not None and (type(stated) is not int or stated < max_positions):
        raise fields.refuse(
            "sliding_window", stated,
            f"is not supported below max_position_embeddings ({max_positions}); null is, as in Mistral 7B v0.2 and later",
        )  # fmt: skip
    layer_types = fields.get("layer_types", [])
    if not isinstance(layer_types, list):
        raise fields.refuse("layer_types", layer_types, "must be a list")
    other = sorted(set(map(str, layer_types)) - {"full_attention"})
    if other:
        raise fields.refuse("layer_types", other, "is not supported; 'full_attention' is")


def _rotary_base(fields: _Fields) -> float:
    """rope_theta, where transformers 4 writes it, or inside rope_parameters, where 5 does."""
    places = [fields.get(name, {}).get("rope_theta") for name in ("rope_scaling", "rope_parameters")]
    stated = {fields.number("rope_theta", value) for value in (fields.get("rope_theta"), *places) if value is not None}
    if len(stated) > 1:
        raise fields.refuse("rope_theta", sorted(stated), "is stated twice, with different values")
    return stated.pop() if stated else LLAMA_ROPE_THETA


def _model(fields: _Fields, make_vocab_size_divisible_by: int) -> ModelConfig:
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    is_llama = fields.content["architectures"] == ["LlamaForCausalLM"]
    groups = fields.size("num_key_value_heads", heads if is_llama else None)  # Llama 1 knew no groups
    if heads % groups:
        raise fields.refuse("num_attention_heads", heads, f"must be a multiple of num_key_value_heads ({groups})")
    head_size = fields.get("head_dim")
    if head_size is None and hidden % heads:
        raise fields.refuse(
            "hidden_size", hidden, f"must be a multiple of num_attention_heads ({heads}) where head_dim is not stated"
        )
    head_size = fields.size("head_dim", hidden // heads)
    if head_size % 2:
        raise fields.refuse("head_dim", head_size, "must be even: rotary positions turn pairs of channels")
    tied = fields.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise fields.refuse("tie_word_embeddings", tied, "must be true or false")
    return ModelConfig(
        num_layers=fields.size("num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=fields.size("intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=groups,
        # null is what a config of ours says of a head that follows from the others
        kv_channels=None if head_size * heads == hidden else head_size,
        vocab_size=fields.size("vocab_size"),
        make_vocab_size_divisible_by=make_vocab_size_divisible_by,
        share_embeddings_and_output_weights=tied,
        rotary_base=_rotary_base(fields),
        layernorm_epsilon=fields.number("rms_norm_eps", fields.get("rms_norm_eps")),
        init_method_std=fields.number("initializer_range", fields.get("initializer_range", 0.02)),
    )
