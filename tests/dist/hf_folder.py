"""A run's model as a Hugging Face folder, written by the map of names alone."""

import json
import shutil
from pathlib import Path

import numpy as np

from pretrain.checkpoint.disk.config_file import read_config
from pretrain.convert.open_model import open_model
from pretrain.convert.ours.names import hf_tensors


def write_hf_folder(run_dir: Path, folder: Path) -> Path:
    """One file in float32, with the run's tokenizer."""
    from safetensors.numpy import save_file

    folder.mkdir()
    with open_model(run_dir) as opened:
        model, tokenizer = opened.model, Path(read_config(opened.folder)["data"]["tokenizer"])
        parts = {
            tensor.name: np.concatenate(
                [opened.read(tensor.tensor)[box.offset[0] : box.offset[0] + box.size[0]] for box in tensor.boxes]
            )
            for tensor in hf_tensors(model, vocab_size=2000)
        }
    save_file(parts, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size, "num_hidden_layers": model.num_layers, "vocab_size": 2000,
        "num_attention_heads": model.num_attention_heads, "num_key_value_heads": model.num_query_groups,
        "rms_norm_eps": model.layernorm_epsilon, "rope_theta": model.rotary_base, "max_position_embeddings": 64,
        "tie_word_embeddings": model.share_embeddings_and_output_weights, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    shutil.copy(tokenizer / "tokenizer.json", folder)
    return folder
