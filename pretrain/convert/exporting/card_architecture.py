"""The part of a model card that says what the model is."""

from pretrain.config.derive import has_rotary_positions, has_sliding_window, kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.convert.exporting.markdown import table
from pretrain.convert.ours.source import ExportSource
from pretrain.convert.theirs.write_config import exported_parameters, exported_vocab_size
from pretrain.model.families import family_of

ACTIVATIONS = {"swiglu": "SwiGLU", "geglu": "GeGLU", "squared_relu": "squared ReLU, no gate", "xielu": "xIELU, no gate"}
PLACEMENTS = {
    "before": "before attention and feed-forward",
    "after": "after attention and feed-forward",
    "both": "before and after attention and feed-forward",
}


def architecture(source: ExportSource, dtype: str) -> str:
    """Return the section about the model's parts."""
    model = source.model
    tied = "shared with the output" if model.share_embeddings_and_output_weights else "separate from the output"
    scaled = ", multiplied by the square root of the hidden size" if model.embedding_scale != "none" else ""
    rows = [
        ("parameters", f"{exported_parameters(source):,}"),
        ("layers", f"{model.num_layers}"),
        (
            "hidden size",
            f"{model.hidden_size:,}; feed-forward ({ACTIVATIONS[model.activation]}) {model.ffn_hidden_size:,}",
        ),
        ("attention", _attention(model)),
        ("positions", f"{_positions(model)}; trained on {source.seq_length:,} tokens"),
        ("norm", _norm(model)),
        ("vocabulary", f"{exported_vocab_size(source):,} tokens; embedding {tied}{scaled}" + _final_cap(model)),
        ("weights", f"trained in {source.weights_dtype} with fp32 masters, exported in {dtype}"),
    ]
    family = family_of(model)
    return f"## Architecture\n\n{family.title} (`{family.architecture}`).\n\n" + table(("", ""), rows)


def _attention(model: ModelConfig) -> str:
    said = f"{model.num_attention_heads} query heads and {model.num_query_groups} key/value heads of size {kv_channels(model)}"
    if model.add_qkv_bias:
        said += ", with biases of queries, keys and values"
    if model.sliding_window is not None:
        windowed = sum(has_sliding_window(model, layer) for layer in range(model.num_layers))
        said += f"; window of {model.sliding_window:,} positions in {windowed} of {model.num_layers} layers"
    if model.query_pre_attention_scalar is not None:
        said += f"; scores divided by the square root of {model.query_pre_attention_scalar:g}"
    if model.attention_logit_softcap is not None:
        said += f"; scores soft-capped at {model.attention_logit_softcap:g}"
    return said


def _positions(model: ModelConfig) -> str:
    said = f"rotary, theta {model.rotary_base:g}"
    if model.rotary_percent != 1:
        said += f", {model.rotary_percent:.0%} of each head"
    if model.rotary_scaling != "none":
        said += f", scaled by {model.rotary_scaling_factor:g} ({model.rotary_scaling})"
    if model.local_rotary_base is not None:
        said += f"; theta {model.local_rotary_base:g} in layers with a window"
    without = sum(not has_rotary_positions(model, layer) for layer in range(model.num_layers))
    return said + (f"; none in {without} of {model.num_layers} layers" if without else "")


def _norm(model: ModelConfig) -> str:
    said = f"{model.normalization} {PLACEMENTS[model.norm_placement]}, epsilon {model.layernorm_epsilon:g}"
    if model.layernorm_zero_centered_gamma:
        said += ", weights around one"
    if not model.qk_layernorm:
        return said
    return said + (
        "; RMSNorm also over each query head and each key head"
        if model.qk_layernorm_scope == "head"
        else "; RMSNorm also over all query heads and over all key heads"
    )


def _final_cap(model: ModelConfig) -> str:
    return "" if model.final_logit_softcap is None else f"; logits soft-capped at {model.final_logit_softcap:g}"
