"""Rules of a model's fields: what they must be together, whatever the layout."""

from fanal.errors import UserError
from pretrain.config.derive import next_multiple
from pretrain.config.number_rules import digits, size_problem
from pretrain.config.schema import ModelConfig

LARGEST_SCALING = 1_000_000
"""Factor and turns of a rotary scaling, far above what anyone uses."""


def check_model(model: ModelConfig) -> None:
    """Refuse a model whose fields do not go together. Raises: UserError naming the first broken rule."""
    if model.kv_channels is None and model.hidden_size % model.num_attention_heads:
        raise UserError(
            f"model.hidden_size ({model.hidden_size}) must be a multiple of model.num_attention_heads "
            f"({model.num_attention_heads}), or model.kv_channels must state the head size; "
            f"{next_multiple(model.hidden_size, model.num_attention_heads)} works"
        )
    head_size = model.kv_channels or model.hidden_size // model.num_attention_heads
    if head_size % 2:
        raise UserError(
            f"the head size ({head_size}: model.kv_channels, or model.hidden_size / model.num_attention_heads) must be even "
            f"for rotary positions; model.kv_channels={head_size + 1} works"
        )
    if model.num_attention_heads % model.num_query_groups:
        works = max(g for g in range(1, model.num_query_groups + 1) if model.num_attention_heads % g == 0)
        raise UserError(
            f"model.num_attention_heads ({model.num_attention_heads}) must be a multiple of model.num_query_groups "
            f"({model.num_query_groups}); num_query_groups={works} works"
        )
    _check_rotary_scaling(model)


def model_problem(model: ModelConfig) -> str | None:
    """Return what is wrong with a model that was read from a file of another kind than a run's config; None if nothing is."""
    problem = size_problem(model)
    if problem is not None:
        return problem
    try:
        check_model(model)
    except UserError as error:
        return str(error)
    return None


def _check_rotary_scaling(model: ModelConfig) -> None:
    """Every key of the scaling acts, or is at its default."""
    kind, factor, length = model.rotary_scaling, model.rotary_scaling_factor, model.rotary_scaling_original_length
    low, high = model.rotary_scaling_low_freq_factor, model.rotary_scaling_high_freq_factor
    if kind == "none" and factor != 1:
        raise UserError(
            f"model.rotary_scaling_factor ({factor}) needs a model.rotary_scaling, which is none; rotary_scaling=linear works"
        )
    if not 1 <= factor <= LARGEST_SCALING:
        raise UserError(
            f"model.rotary_scaling_factor ({factor}) must be from 1 to {LARGEST_SCALING:,}, since frequencies are divided by it; "
            f"{1.0 if kind == 'none' else 8.0} works"
        )
    if length is not None and not 0 < length < 2**31:
        raise UserError(
            f"model.rotary_scaling_original_length ({digits(length)}) must be from 1 to {2**31 - 1:,}; "
            f"{8192 if kind == 'llama3' else 'null'} works"
        )
    if kind != "llama3" and (length, low, high) != (None, 1.0, 4.0):
        raise UserError(
            f"model.rotary_scaling ({kind}) must be llama3 where model.rotary_scaling_original_length ({length}), _low_freq_factor "
            f"({low}) or _high_freq_factor ({high}) is stated; without them it works"
        )
    if kind == "llama3" and length is None:
        raise UserError(
            "model.rotary_scaling_original_length (null) must be stated where model.rotary_scaling is llama3; 8192 works, as in "
            "Llama 3.1"
        )
    if not low < high <= LARGEST_SCALING:
        raise UserError(
            f"model.rotary_scaling_high_freq_factor ({high}) must be above model.rotary_scaling_low_freq_factor ({low}) and at "
            f"most {LARGEST_SCALING:,}; low_freq_factor=1.0 and high_freq_factor=4.0 work"
        )
