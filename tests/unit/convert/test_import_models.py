"""What is imported is the model that transformers loads: its logits, its text, its very numbers."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fanal.errors import PassingError
from pretrain.checkpoint.disk import masters
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.disk.config_file import read_model
from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.checkpoint.disk.weight_sums import weight_sum
from pretrain.config.derive import has_rotary_positions, padded_vocab_size
from pretrain.convert.importing import assemble as assemble_module
from pretrain.convert.importing import import_folder as from_hf
from pretrain.convert.importing.assemble import assemble
from pretrain.convert.importing.import_folder import ImportTargetError, import_hf
from pretrain.convert.ours.import_record import read_import
from pretrain.convert.ours.names import hf_tensors, our_shapes
from pretrain.convert.theirs import weights as hf_weights
from pretrain.convert.theirs.read_config import read_hf_config
from pretrain.convert.theirs.weights import BadWeightsError, open_hf_weights
from pretrain.inspect.generate import new_tokens
from pretrain.model.families.table import EMBEDDING, OUTPUT
from pretrain.model.inference import InferenceDecoder
from pretrain.model.sampling import Sampler, Sampling
from tests.unit.convert.folders import BASE, TOKENIZER, MakeFolder, edit_config, in_hub_cache

ROOT = Path(__file__).parents[3]
LOGITS_TOLERANCE = 1e-5
"""Of the largest logit, which is near 6. Two orders of sums in single precision differ by 5e-6 at 300 tokens."""

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 5000.0, "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 32.0,
    "beta_slow": 1.0, "attention_factor": 1.2,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "groups, untied, shards": {"shard": "60KB"},
    "tied": {"tie_word_embeddings": True},
    "one key for all heads": {"num_key_value_heads": 1},
    "no groups, as Llama 1": {"num_key_value_heads": 6, "rms_norm_eps": 1e-5},
    # With scores as wide as those of the others: twice as wide ones differ by 1.1e-5.
    "head size of its own": {"head_dim": 16, "vocab_size": 128, "eos_token_id": 127, "initializer_range": 0.15},
    "mistral without a window": {"kind": "mistral", "sliding_window": None, "head_dim": 8},
    "llama 3.1": {"rope_parameters": LLAMA3, "rope_theta": 5000.0},
    "linear scaling": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}},
    "qwen3": {"kind": "qwen3", "head_dim": 12},
    "smollm3": {"kind": "smollm3", "no_rope_layer_interval": 2, "num_hidden_layers": 5, "pad_token_id": 0},
    "mistral with a window": {"kind": "mistral", "sliding_window": 10, "head_dim": 8},
    "qwen2": {"kind": "qwen2"},
    "olmo 2": {"kind": "olmo2"},
    "olmo 3": {
        "kind": "olmo3",
        "num_hidden_layers": 5,
        "sliding_window": 10,
        "rope_parameters": {
            "full_attention": YARN,
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        },
    },
    "apertus": {"kind": "apertus", "rope_parameters": LLAMA3, "rope_theta": 5000.0},
    "nemotron": {"kind": "nemotron", "hidden_act": "relu2"},
    "gemma": {"kind": "gemma", "head_dim": 8, "pad_token_id": 0},
    "gemma 2": {
        "kind": "gemma2",
        "head_dim": 8,
        "sliding_window": 10,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "pad_token_id": 0,
    },
    "gemma 3": {
        "kind": "gemma3_text",
        "head_dim": 8,
        "sliding_window": 10,
        "query_pre_attn_scalar": 8,
        "num_hidden_layers": 4,
        "layer_types": 2 * ["sliding_attention", "full_attention"],
        "pad_token_id": 0,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
    "bf16": {"dtype": "bfloat16", "shard": "60KB"},
    "fp16": {"dtype": "float16", "tie_word_embeddings": True},
}


def decoder_of(checkpoint: Path) -> InferenceDecoder:
    model = read_model(checkpoint)
    with open_tensors(checkpoint) as reader:
        return InferenceDecoder(
            model,
            lambda name: reader.read_all(name, "param"),
            vocab_size=model.vocab_size,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )


@pytest.mark.parametrize("options", MODELS.values(), ids=list(MODELS))
def test_an_imported_model_has_transformers_logits_and_its_64_greedy_tokens(
    options: dict[str, Any], make_folder: MakeFolder, tmp_path: Path
) -> None:
    import transformers

    folder = make_folder(**options)
    made = import_hf(folder, tmp_path / "imported")
    assert not verify_checkpoint(made.checkpoint, deep=True).problems
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert made.num_parameters == sum(parameter.numel() for parameter in theirs.parameters())
    ours = decoder_of(made.checkpoint)
    tokens = torch.randint(0, ours.model.vocab_size, (2, 300), generator=torch.Generator().manual_seed(5))
    for length in (1, 7, 64, 300):
        with torch.no_grad():
            expected = theirs(tokens[:, :length]).logits
        assert expected.std() > 0.5, "the comparison needs logits that differ"
        error = (ours.logits(tokens[:, :length]) - expected).abs().max() / expected.abs().max()
        assert error < LOGITS_TOLERANCE, f"{length} tokens"
    prompt = tokens[:1, :7]
    generated = theirs.generate(prompt, do_sample=False, max_new_tokens=64, eos_token_id=None, pad_token_id=0)
    found = list(new_tokens(ours, prompt[0].tolist(), 64, Sampler(Sampling()), frozenset()))
    assert found == generated[0, 7:].tolist()


@pytest.mark.parametrize(
    "name",
    ["input_layernorm", "self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"],
)
def test_the_bound_tells_each_tensor_s_rows_apart(name: str, folder: Path, tmp_path: Path) -> None:
    """A planted fault: two neighbouring rows, or elements, of one tensor are swapped."""
    import_hf(folder, tmp_path / "imported")
    model = read_model(tmp_path / "imported")
    tokens = torch.arange(40)[None]

    def swapped(reader: Any, tensor: str) -> np.ndarray:
        values = reader.read_all(tensor, "param")
        if tensor == f"decoder.layers.1.{name}.weight":
            values[[2, 3]] = values[[3, 2]]
        return values

    with open_tensors(tmp_path / "imported") as reader:
        options = {"vocab_size": model.vocab_size, "device": torch.device("cpu"), "dtype": torch.float32}
        good = InferenceDecoder(model, lambda tensor: reader.read_all(tensor, "param"), **options).logits(tokens)
        bad = InferenceDecoder(model, lambda tensor: swapped(reader, tensor), **options).logits(tokens)
    assert (good - bad).abs().max() / good.abs().max() > 10 * LOGITS_TOLERANCE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_number_of_the_folder_is_in_the_checkpoint_and_its_sums_are_right(
    dtype: str, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back through the map of names, against the safetensors package; in small blocks and several files."""
    from safetensors.torch import load_file

    monkeypatch.setattr(assemble_module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(masters, "FILE_BYTES", 100_000)
    folder = make_folder(dtype=dtype)
    import_hf(folder, tmp_path / "imported")
    assert len(list((tmp_path / "imported" / "shards").iterdir())) > 2
    model, theirs = read_model(tmp_path / "imported"), load_file(folder / "model.safetensors")
    with open_tensors(tmp_path / "imported") as reader:
        for tensor in hf_tensors(model, vocab_size=model.vocab_size):
            parts = []
            for box in tensor.boxes:
                parts.append(np.empty(box.size, np.float32))
                reader.read(tensor.tensor, "param", box, parts[-1])
            assert torch.equal(torch.from_numpy(np.concatenate(parts)), theirs.pop(tensor.name).float()), tensor.name
        weights_dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        assert reader.index.weights_dtype == str(weights_dtype).removeprefix("torch.")
        assert reader.index.states == ("param",) and reader.index.num_updates == 0
        for name, entry in reader.index.tensors.items():
            values = torch.from_numpy(reader.read_all(name, "param"))
            assert entry.weights_sum == f"{weight_sum(values.to(weights_dtype)):016x}", name
        padding = Box(offset=(300, 0), size=(padded_vocab_size(model) - 300, 48))
        for name in (EMBEDDING, OUTPUT):
            rows = np.ones(padding.size, np.float32)
            reader.read(name, "param", padding, rows)
            assert not rows.any(), f"padding of {name}"
        assert {name: entry.shape for name, entry in reader.index.tensors.items()} == our_shapes(model)
    assert not theirs


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Olmo2", "Apertus", "Nemotron"])
def test_a_key_that_is_not_stated_is_what_transformers_takes_for_it(kind: str, tmp_path: Path) -> None:
    """Sizes alone; 32 heads of 128, which suit all families."""
    import transformers

    theirs = getattr(transformers, f"{kind}Config")()
    sizes = {
        "hidden_size": 4096, "intermediate_size": 80, "num_hidden_layers": 8, "rms_norm_eps": 1e-5, "num_attention_heads": 32, "vocab_size": 300,
        "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"model_type": theirs.model_type}))
    found = read_hf_config(tmp_path).model
    assert found.num_query_groups == (theirs.num_key_value_heads or 32)
    rope = theirs.rope_parameters
    assert found.rotary_base == rope["rope_theta"] and found.rotary_scaling_factor == rope.get("factor", 1.0)
    assert found.rotary_percent == rope.get("partial_rotary_factor", 1.0)
    assert found.init_method_std == theirs.initializer_range
    assert found.share_embeddings_and_output_weights == theirs.tie_word_embeddings
    rotary = getattr(getattr(transformers, f"{kind}Config")(num_hidden_layers=8), "no_rope_layers", [1] * 8)
    assert [has_rotary_positions(found, layer) for layer in range(8)] == [bool(layer) for layer in rotary]


def test_the_config_of_transformers_4_gives_the_same_model(folder: Path) -> None:
    five = read_hf_config(folder)
    edit_config(folder, rope_parameters=..., rope_theta=5000.0, rope_scaling=None, dtype=..., torch_dtype="float32")
    assert read_hf_config(folder).model == five.model
    edit_config(folder, rope_theta=..., num_key_value_heads=..., head_dim=...)
    assert read_hf_config(folder).model.rotary_base == 10_000.0
    assert read_hf_config(folder).model.num_query_groups == 6


def test_a_config_that_is_harmless_is_taken(folder: Path) -> None:
    edit_config(
        folder,
        pretraining_tp=4,
        sliding_window=256,
        attention_dropout=0.1,
        quantization_config=None,
        layer_types=["full_attention"] * 3,
    )
    model = read_hf_config(folder, make_vocab_size_divisible_by=64).model
    assert padded_vocab_size(model) == 320 and model.kv_channels is None


def test_frequencies_of_old_folders_and_a_second_copy_of_a_tied_embedding_are_no_surprise(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_folder(tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert import_hf(folder, tmp_path / "imported").num_parameters > 0
    weights["lm_head.weight"][200, 3] += 1
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight in .* must equal model.embed_tokens.weight"):
        import_hf(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_where_it_comes_from_is_on_record_with_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    import hashlib

    (folder / "tokenizer.json").write_text(TOKENIZER)
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    record = read_import(checkpoint)
    assert record is not None and record.name == "hf"
    assert record.config == json.loads((folder / "config.json").read_text())
    by_path = {entry.path: entry for entry in record.files}
    assert set(by_path) == {path.name for path in folder.iterdir()} - {"modeling_evil.py"}
    for name, entry in by_path.items():
        content = (folder / name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert set(record.tokenizer_sha256) == {"tokenizer.json"}
    assert (checkpoint / "imported" / "tokenizer.json").read_text() == TOKENIZER
    assert str(tmp_path) not in (checkpoint / "import.json").read_text(), "paths stay private"


def test_a_folder_with_config_and_weights_alone_is_enough_and_said_to_have_no_tokenizer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "generation_config.json").unlink()
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    said = capsys.readouterr().err
    assert "has no tokenizer" in said and "AutoTokenizer cannot load an export of this checkpoint" in said
    (folder / "tokenizer.json").write_text(TOKENIZER)
    import_hf(folder, tmp_path / "other")
    assert "warning" not in capsys.readouterr().err
    assert not verify_checkpoint(checkpoint, deep=True).problems and not (checkpoint / "imported").exists()


def test_a_folder_of_links_as_a_download_cache_has_is_read(folder: Path, tmp_path: Path) -> None:
    links = in_hub_cache(folder, tmp_path)
    a, b = (import_hf(source, tmp_path / name) for source, name in ((folder, "a"), (links, "b")))
    assert (a.checkpoint / "tensors.json").read_bytes() == (b.checkpoint / "tensors.json").read_bytes()


def test_a_name_that_a_step_of_a_run_has_is_refused_and_an_empty_folder_is_taken(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportTargetError, match=r"must not be named like a run's checkpoint.*converted works"):
        import_hf(folder, tmp_path / "step-00000007")
    (tmp_path / "empty").mkdir()
    assert import_hf(folder, tmp_path / "empty").checkpoint == tmp_path / "empty"
    with pytest.raises(ImportTargetError, match="must not exist yet"):
        import_hf(folder, tmp_path / "empty")


def test_a_full_disk_is_one_message_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(masters, "shard_path", lambda number: "shards/full")
    real = masters.create_file

    def open_or_full(path: Path, **options: Any) -> Any:
        return Path("/dev/full").open("wb") if path.name == "full" else real(path, **options)

    monkeypatch.setattr(masters, "create_file", open_or_full)
    with pytest.raises(
        ImportTargetError, match=r"could not be written, and nothing is left of it: No space left on device"
    ):
        import_hf(folder, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_too_little_space_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:3], 0, 0, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(
        ImportTargetError, match=r"needs [0-9,]+ bytes and the disk of .* has 0 left; free [0-9,]+ bytes"
    ):
        import_hf(folder, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


KILLED = """
import os, sys
from pretrain.checkpoint.disk import sealing
from pretrain.convert.importing import assemble, import_folder as from_hf
moment, hf_dir, to = sys.argv[1:]
def die(*_, **__): os.kill(os.getpid(), 9)
if moment == "writing":
    read, left = assemble.Assembly.blocks, [5]
    def blocks(self, name):
        left[0] -= 1
        return read(self, name) if left[0] else die()
    assemble.Assembly.blocks = blocks
else:
    sealing.verify_checkpoint = die
from_hf.import_hf(hf_dir, to)
"""


@pytest.mark.parametrize("moment", ["writing", "sealed, not renamed"])
def test_a_killed_import_leaves_nothing_under_the_name_and_the_next_one_cleans_up(
    moment: str, folder: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, moment, str(folder), str(tmp_path / "imported")],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "imported").exists() and (tmp_path / "imported.part").is_dir()
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    assert not verify_checkpoint(checkpoint, deep=True).problems
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "imported"]


def test_two_imports_to_one_name_do_not_meet_and_a_stranger_s_folder_is_left_alone(
    folder: Path, tmp_path: Path
) -> None:
    with (
        from_hf._part_of(tmp_path / "a"),
        pytest.raises(ImportTargetError, match=r"a.part is being written by another"),
    ):
        import_hf(folder, tmp_path / "a")
    (tmp_path / "b.part").mkdir()
    (tmp_path / "b.part" / "precious").write_text("x")
    with pytest.raises(ImportTargetError, match=r"b.part is in the way, with precious that no import wrote"):
        import_hf(folder, tmp_path / "b")
    assert (tmp_path / "b.part" / "precious").read_text() == "x"


def test_no_more_than_a_block_of_rows_is_in_memory(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble_module, "BLOCK_BYTES", 2000)
    folder = make_folder()
    with open_hf_weights(folder) as weights:
        assembly = assemble(weights, read_hf_config(folder).model)
        sizes = [block.nbytes for name in assembly.shapes for block in assembly.blocks(name)]
    assert max(sizes) <= 2000 and len(sizes) > 100
    assert BASE["hidden_size"] * 4 <= 2000, "a row is the least"


def test_a_name_that_is_no_text_is_kept_as_it_is(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(b"hf-\xff".decode(errors="surrogateescape"))
    edit_config(folder, note="\ud800")
    import_hf(folder, tmp_path / "imported")
    record = read_import(tmp_path / "imported")
    assert record is not None and record.name == folder.name and record.config["note"] == "\ud800"


def failing(number: int) -> Callable[..., Any]:
    """A call of the system that gives this error."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_source_that_cannot_be_read_is_not_called_a_target_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_weights.os, "preadv", failing(errno.EIO))
    with pytest.raises(PassingError, match=r"hf/model.*safetensors cannot be read: Input/output error; try again"):
        import_hf(folder, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_clean_up_that_fails_hides_no_reason(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rmdir

    def busy(path: Any, **options: Any) -> None:
        if str(path).endswith(".part"):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", busy)
    monkeypatch.setattr(hf_weights.np, "isfinite", lambda values: hf_weights.np.zeros(1, bool))
    with pytest.raises(BadWeightsError, match="must hold finite numbers, and has NaN or infinite ones"):
        import_hf(folder, tmp_path / "imported")


def test_a_file_system_without_locks_takes_an_import(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    assert not verify_checkpoint(import_hf(folder, tmp_path / "imported").checkpoint, deep=True).problems
