"""What generate refuses before it takes memory, and ids that no file may state."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.names import our_shapes
from pretrain.inspect import generate as module
from pretrain.inspect.generate import GenerationRequest, check_room, generate
from pretrain.model.inference import InferenceDecoder
from pretrain.model.sampling import Sampling
from tests.unit.convert.folders import TOKENIZER, edit_config, save_model

REQUEST = GenerationRequest(prompt="The", max_new_tokens=2, sampling=Sampling(), device="cpu")
MODEL = ModelConfig(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=6, num_query_groups=2, kv_channels=8, vocab_size=100
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    return save_model(tmp_path_factory.mktemp("hf") / "hf", max_position_embeddings=2**31 - 1)


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(shared, tmp_path / "hf"))
    (copy / "tokenizer.json").write_text(TOKENIZER)
    return copy


def test_a_cache_that_does_not_fit_is_refused_with_a_number_that_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "host_memory", lambda: SimpleNamespace(available_bytes=1_000_000, total_bytes=2_000_000)
    )
    with pytest.raises(
        ValueError,
        match=r"max_new_tokens \(1,000,000,000\) needs a cache of [0-9,]{15,} bytes .* 1,000,000 bytes are available \(cpu\)",
    ) as refused:
        generate(folder, replace(REQUEST, max_new_tokens=10**9), out=io.StringIO())
    works = int(str(refused.value).rpartition("; ")[2].removesuffix(" works"))
    assert works > 100
    monkeypatch.setattr(module, "new_tokens", lambda decoder, ids, room, *_: iter([5] * room))
    monkeypatch.setattr(module, "write_text", lambda tokens, *_: list(tokens))
    assert len(generate(folder, replace(REQUEST, max_new_tokens=works), out=io.StringIO())) == works


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_said_of_a_cache_is_what_it_takes(dtype: torch.dtype) -> None:
    decoder = InferenceDecoder(
        MODEL,
        lambda name: torch.zeros(our_shapes(MODEL)[name]).numpy(),
        vocab_size=100,
        device=torch.device("cpu"),
        dtype=dtype,
    )
    cache = decoder.new_cache(10)
    held = sum(tensor.nbytes for tensor in (cache.keys, cache.values, cache.cos, cache.sin))
    assert held + cache.cos.nbytes == 10 * decoder.position_bytes, "the angles are there while both are made of them"
    check_room(decoder, [1], 9, 9)


IDS: list[Any] = ["q", [1], -3, 1.0, 300, 10**30, True]


@pytest.mark.parametrize("value", IDS)
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_an_id_of_bos_that_no_token_has_is_named(name: str, value: Any, folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    if name == "config.json":
        edit_config(folder, bos_token_id=value)
    else:
        (folder / name).write_text(json.dumps({"bos_token_id": value}))
    with pytest.raises(ValueError, match=rf"bos_token_id \(.*\) of .*{name} must be an integer from 0 to 299 or null"):
        generate(folder, REQUEST)


def test_ids_that_may_be_are_taken_the_generation_config_s_first(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    (folder / "generation_config.json").write_text('{"bos_token_id": 7, "eos_token_id": [5, 6]}')
    with module.open_model(folder) as opened:
        assert opened.codec.first_ids == (7,) and opened.codec.eos_ids == {5, 6}
    (folder / "generation_config.json").write_text('{"bos_token_id": null}')
    with module.open_model(folder) as opened:
        assert opened.codec.first_ids == () and opened.codec.eos_ids == {299}
