"""Small Hugging Face folders, made by transformers itself."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

MakeFolder = Callable[..., Path]

BASE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_theta": 5000.0,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 299,
}

TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "The": 2}, "unk_token": "<unk>"},
    }
)
"""A ``tokenizer.json``."""


def save_model(folder: Path, *, kind: str = "llama", dtype: str = "float32", shard: str = "5GB", **config: Any) -> Path:
    """A model of random weights: its kind, its dtype, the size of its shards."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config_class = type(transformers.AutoConfig.for_model(kind))
    model = transformers.AutoModelForCausalLM.from_config(config_class(**BASE | config)).to(getattr(torch, dtype))
    for name, parameter in model.named_parameters():  # norms of other values than one, biases of other values than zero
        if parameter.dim() == 1:
            is_centered = name.endswith("bias") or "Gemma" in type(model).__name__ or "Nemotron" in type(model).__name__
            torch.nn.init.uniform_(parameter, -0.5 if is_centered else 0.5, 0.5 if is_centered else 1.5)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of ``config.json``; a key that becomes ... goes."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def in_hub_cache(folder: Path, cache: Path) -> Path:
    """Put a folder's files into a download cache, as huggingface_hub lays it out. Returns: the folder of links there."""
    model = cache / "models--some--model"
    snapshot, blobs = model / "snapshots" / "0a1b2c", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blobs / digest)
        (snapshot / path.name).symlink_to(f"../../blobs/{digest}")
    return snapshot


def reseal(checkpoint: Path, name: str, content: str) -> None:
    """Change a file of a checkpoint, and its manifest with it: every hash fits."""
    from pretrain.checkpoint.disk.manifest import Manifest, describe, manifest_bytes, seal_text

    (checkpoint / name).write_text(content)
    names = [entry["path"] for entry in json.loads((checkpoint / "manifest.json").read_text())["files"]]
    manifest = manifest_bytes(Manifest(step=0, files=tuple(describe(checkpoint, name) for name in names)))
    (checkpoint / "manifest.json").write_bytes(manifest)
    (checkpoint / "COMPLETE").write_text(seal_text(manifest))
