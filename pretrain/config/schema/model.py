"""Keys of ``model``: shape and initial values of a decoder."""

from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and initial values of a decoder. The fields that it states make it one of the families of pretrain/model/families."""

    num_layers: int = MISSING
    """Transformer layers."""
    hidden_size: int = MISSING
    """Width of the residual stream."""
    ffn_hidden_size: int = MISSING
    """Width of the feed-forward; with a gate, of the gate and of what it multiplies."""
    activation: Literal["swiglu", "geglu", "squared_relu", "xielu"] = "swiglu"
    """Activation of the feed-forward; swiglu and geglu have a gate, squared_relu and xielu have none."""
    num_attention_heads: int = MISSING
    """Query heads."""
    num_query_groups: int = MISSING
    """Key/value heads; each serves num_attention_heads / num_query_groups query heads."""
    kv_channels: int | None = None
    """Size of one head; null means hidden_size / num_attention_heads."""
    vocab_size: int = MISSING
    """Rows of the embedding: at least the tokenizer's vocabulary. Rows above it take no part in the loss, nor in an export."""
    make_vocab_size_divisible_by: int = 128
    """The embedding is padded to a multiple of this, whatever the layout; padded columns never take part in the loss."""
    share_embeddings_and_output_weights: bool = False
    """True ties the output projection to the embedding."""
    embedding_scale: Literal["none", "sqrt_hidden_size"] = "none"
    """Number that what the embedding gives is multiplied by: 1, or the square root of hidden_size as in Gemma."""
    rotary_base: float = 10_000.0
    """Theta of the rotary position embedding."""
    local_rotary_base: float | None = None
    """Theta in layers with a sliding window, where other layers have none (as in Gemma 3); null means rotary_base."""
    rotary_percent: float = 1.0
    """Share of each head's channels that turn with the position, the first ones; the others know no position."""
    rotary_scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    """Change of the rotary frequencies for long sequences: all of them, or the slow ones as Llama 3.1 or YaRN do, divided by a
    factor. Where only some layers have a sliding window, those layers keep their frequencies."""
    rotary_scaling_factor: float = 1.0
    """Number that frequencies are divided by."""
    rotary_scaling_original_length: int | None = None
    """Tokens in the sequences of the training before the change, for llama3 and yarn: what is slow is judged by it."""
    rotary_scaling_low_freq_factor: float = 1.0
    """Turns within the original length below which a frequency is divided by the whole factor, for llama3."""
    rotary_scaling_high_freq_factor: float = 4.0
    """Turns within the original length above which a frequency stays as it is, for llama3."""
    rotary_scaling_beta_fast: float = 32.0
    """Turns within the original length above which a frequency stays as it is, for yarn."""
    rotary_scaling_beta_slow: float = 1.0
    """Turns within the original length below which a frequency is divided by the whole factor, for yarn."""
    rotary_scaling_attention_factor: float | None = None
    """Number that turned queries and keys are multiplied by, for yarn; null means 0.1 * ln(factor) + 1."""
    no_rope_layer_interval: int | None = None
    """Layers N, 2N, ... have no rotary positions (NoPE, as every 4th of SmolLM3); null means that all layers have them."""
    sliding_window: int | None = None
    """Positions that a position sees, itself included; null means all before it."""
    full_attention_layer_interval: int | None = None
    """Layers N, 2N, ... have no sliding window (every 4th of OLMo 3); null means that all layers have it."""
    add_qkv_bias: bool = False
    """True adds a bias to queries, keys and values (as Qwen2)."""
    query_pre_attention_scalar: float | None = None
    """Attention scores are divided by the square root of this; null means the size of a head."""
    attention_logit_softcap: float | None = None
    """Scores x become cap * tanh(x / cap) before the softmax (as Gemma 2); null means none."""
    final_logit_softcap: float | None = None
    """Logits x become cap * tanh(x / cap) (as Gemma 2); null means none."""
    qk_layernorm: bool = False
    """True applies RMSNorm to queries and keys, before rotary positions (QK-norm)."""
    qk_layernorm_scope: Literal["head", "full"] = "head"
    """Mean square of QK-norm: of each head (as Qwen3), or of all query heads and of all key heads (as OLMo 2)."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    """Norm of the residual stream. LayerNorm has a bias; QK-norm is RMSNorm with both."""
    layernorm_zero_centered_gamma: bool = False
    """True makes a norm multiply by 1 + weight, with weights that begin at 0."""
    norm_placement: Literal["before", "after", "both"] = "before"
    """Where a layer has norms: before attention and feed-forward, after each (as OLMo 2), or both (four a layer, as Gemma 2)."""
    layernorm_epsilon: float = 1e-5
    """Added to the mean square, or the variance, inside a norm."""
    init_method_std: float = 0.02
    """Standard deviation of initial weights; projections into the residual stream use std / sqrt(2 * num_layers)."""
    attention_backend: Literal[
        "auto", "flash4", "flash3", "flash2", "flash", "varlen", "triton", "sdpa", "reference"
    ] = "auto"
    """Attention kernel: auto takes the first that can run, on CUDA flash-attn 4, 3 or 2 where installed, else PyTorch's own or ours
    (triton); flash takes the newest flash-attn that can. A table of what each can: docs/attention.md."""
