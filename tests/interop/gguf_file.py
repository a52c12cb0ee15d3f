"""A Hugging Face folder of a Llama, a Qwen3 or an OLMo 2 becomes a GGUF file by the rules of llama.cpp's own converter.

The converter is a script in llama.cpp's repository that no wheel holds, so its rules for these kinds of model are written down
here once more, on top of the ``gguf`` package, which is llama.cpp's and reads the special tokens as the script has it do:

- the vocabulary is that of tokenizer.model, with SentencePiece's scores; control, unknown and byte pieces are marked as such, all
  others are normal, user-defined ones too;
- ``added_tokens_decoder`` of tokenizer_config.json is laid over it: special tokens are control tokens, others are user-defined,
  with U+2581 written as a space, and either has the score -1000;
- a space in front of each text is set by ``add_prefix_space``, where the file says it at all; llama.cpp's default is to add one;
- BOS is added where tokenizer.json has a template that starts with it, or as ``add_bos_token`` says; its default is to add one;
- rows of a Llama's query and key projections are permuted from Hugging Face's halves to the pairs that llama.cpp rotates there.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PLACES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
KINDS = {
    "LlamaForCausalLM": ("llama", PLACES),
    "Qwen3ForCausalLM": ("qwen3", PLACES | NORMS),
    "Olmo2ForCausalLM": (
        "olmo2",
        PLACES
        | NORMS
        | {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"},
    ),
}
"""By class: llama.cpp's name, and its names of a layer's tensors."""


def write_gguf(folder: Path, path: Path) -> None:
    """Write the file, in float32."""
    config = json.loads((folder / "config.json").read_text())
    (architecture,) = config["architectures"]
    assert config["rope_parameters"]["rope_type"] == "default", "factors of scaled rotary positions are a tensor there"
    kind, places = KINDS[architecture]
    writer = gguf.GGUFWriter(str(path), kind)
    _write_shape(writer, config)
    _write_vocabulary(writer, folder, config)
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    for file in sorted(folder.glob("*.safetensors")):
        for name, values in load_file(file).items():
            values = values.astype(np.float32)
            if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                values = _in_pairs(values, heads if ".q_proj" in name else groups)
            writer.add_tensor(_name(name, places), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("export")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_vocabulary(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    size = config["vocab_size"]
    tokens, scores = [f"[PAD{i}]" for i in range(size)], [-10000.0] * size
    types = [gguf.TokenType.UNUSED] * size
    for number in range(processor.GetPieceSize()):
        tokens[number], scores[number] = processor.IdToPiece(number), processor.GetScore(number)
        types[number] = (
            gguf.TokenType.UNKNOWN if processor.IsUnknown(number)
            else gguf.TokenType.CONTROL if processor.IsControl(number)
            else gguf.TokenType.BYTE if processor.IsByte(number)
            else gguf.TokenType.NORMAL
        )  # fmt: skip
    for number, token in stated.get("added_tokens_decoder", {}).items():
        number, content = int(number), token["content"]
        types[number] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        tokens[number] = content if token["special"] else content.replace("\u2581", " ")
        scores[number] = -1000.0
    if stated.get("add_prefix_space") is not None:
        writer.add_add_space_prefix(stated["add_prefix_space"])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    gguf.SpecialVocab(folder, n_vocab=size).add_to_gguf(writer)


def _name(name: str, places: dict[str, str]) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, number, place = name.removesuffix(".weight").split(".", 3)
    return f"blk.{number}.{places[place]}.weight"


def _in_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (first half, second half) to (pair, pair, ...)."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
