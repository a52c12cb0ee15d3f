"""Folders that are refused by name: exit code 2 on the command line, nothing under the target's name."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.convert.importing.import_folder import import_hf
from tests.unit.convert.folders import MakeFolder, edit_config

ROOT = Path(__file__).parents[3]

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"architectures": ["GPT2LMHeadModel"]}, r"architectures \(\['GPT2LMHeadModel'\]\) .* LlamaForCausalLM, MistralForCausalLM"),
    "no architecture": ({"architectures": None, "model_type": None}, r"architectures \(\[\]\)"),
    "a list for an architecture": ({"architectures": [["LlamaForCausalLM"]]}, r"architectures .* must be a supported one"),
    "a list for a rope type": ({"rope_scaling": {"rope_type": ["default"]}}, r"rope_scaling .* scales the rotary positions in a way that is not supported; default, linear, llama3, yarn work"),
    "a number for layer types": ({"layer_types": 3}, r"layer_types \(3\) .* must be a list"),
    "a number larger than any float": ({"rms_norm_eps": 10**400}, r"rms_norm_eps \(10+\.\.\.\) .* must be a number above 0"),
    "layers without end": ({"num_hidden_layers": 2_000_000_000}, r"tensors, fewer than the 2,000,000,000 layers"),
    "another model type": ({"model_type": "gemma"}, r"model_type \('gemma'\) .* must be 'llama'"),
    "code of its own": ({"auto_map": {"AutoModel": "modeling_x.X"}}, r"auto_map .* names code in the folder, which is never run"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config .* use the unquantized weights"),
    "attention bias": ({"attention_bias": True}, r"attention_bias \(True\) .* is not supported; false works"),
    "mlp bias": ({"mlp_bias": True}, r"mlp_bias \(True\)"),
    "another activation": ({"hidden_act": "gelu"}, r"hidden_act \('gelu'\) .* 'silu' works"),
    "llama 3.1's rotary scaling, in part": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}},
        r"rope_parameters\.high_freq_factor \(None\) .* must be a number above 0",
    ),
    "a factor and another": ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 32}}, r"rope_scaling .* states beta_fast"),
    "two scalings": ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 4.0}}, "must be that of rope_parameters"),
    "a length below 1": ({"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 0}}, "original_max_position_embeddings .0. .* above 0"),
    "yarn without a length": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, r"rope_scaling.original_max_position_embeddings \(None\)"),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"rope_scaling .*dynamic"),
    "a factor without a type": ({"rope_scaling": {"factor": 2.0}}, r"rope_scaling .*factor"),
    "rope by layer type": ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, r"rope_parameters"),
    "part of a head turns": ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor \(0.5\)"),
    "two thetas": ({"rope_theta": 1.0}, r"rope_theta \(\[1.0, 5000.0\]\) .* is stated more than once, and must have one value"),
    "theta that is no number": ({"rope_parameters": {"rope_theta": "big"}}, r"rope_theta \('big'\)"),
    "a window": ({"sliding_window": 64}, r"sliding_window \(64\) .* below max_position_embeddings \(256\)"),
    "a window of nothing": (
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 0},
        r"sliding_window \(0\) .* must be an integer above 0",
    ),
    "a window by default": (
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": True, "max_position_embeddings": 8192},
        r"sliding_window \(4096\)",
    ),
    "layers with a window": ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types \(\['sliding_attention'\]\)"),
    "odd heads": ({"head_dim": 7}, r"head_dim \(7\) .* must be even"),
    "heads that do not divide": ({"head_dim": None, "hidden_size": 49}, r"hidden_size \(49\) .* multiple of num_attention_heads \(6\)"),
    "groups that do not divide": ({"num_key_value_heads": 4}, r"num_attention_heads \(6\) .* multiple of num_key_value_heads \(4\)"),
    "no size": ({"hidden_size": ...}, r"hidden_size \(None\) .* must be an integer above 0"),
    "true for a size": ({"vocab_size": True}, r"vocab_size \(True\) .* must be an integer above 0"),
    "a size of 2**31": ({"vocab_size": 2**31}, r"vocab_size \(2147483648\) .* must be an integer above 0 and below 2\*\*31"),
    "no epsilon": ({"rms_norm_eps": ...}, r"rms_norm_eps \(None\) .* must be a number above 0"),
    "tied or not": ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings \('yes'\)"),
    "more layers than weights": ({"num_hidden_layers": 4}, r"lacks model.layers.3.self_attn.q_proj.weight, .* and 6 more tensors"),
    "fewer layers than weights": ({"num_hidden_layers": 2}, r"holds model.layers.2.* the model that its config.json describes has no such tensor"),
    "another width": ({"intermediate_size": 96}, r"model.layers.0.mlp.gate_proj.weight in .* has shape \(80, 48\); its config.json implies \(96, 48\)"),
    "another vocabulary": ({"vocab_size": 301}, r"model.embed_tokens.weight in .* has shape \(300, 48\).*\(301, 48\)"),
}  # fmt: skip


def refused(folder: Path, message: str) -> None:
    to = folder.parent / "imported"
    with pytest.raises(ValueError, match=message):
        import_hf(folder, to)
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith("imported")]
    assert not left, "nothing may be left"


@pytest.mark.parametrize(("changes", "message"), CONFIGS.values(), ids=list(CONFIGS))
def test_a_config_that_we_do_not_compute_is_refused_by_name(
    changes: dict[str, Any], message: str, folder: Path
) -> None:
    edit_config(folder, **changes)
    refused(folder, message)


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-00001-*.safetensors"))


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    fields = json.loads(content[8 : 8 + length])
    change(fields)
    text = json.dumps(fields).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def first_entry(fields: dict[str, Any]) -> dict[str, Any]:
    return fields[min(name for name in fields if name != "__metadata__")]


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"must be a Hugging Face model's folder"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config.json cannot be read \(No such file"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), r"config.json is not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), r"must hold an object; it holds an array"),
    "missing shard": (lambda f: first_shard(f).unlink(), r"model-00001.* a file of the weights is missing; copy it again"),
    "a folder for a shard": (lambda f: (first_shard(f).unlink(), first_shard_path(f).mkdir()), r"must be a file, and is not one"),
    "short shard": (lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes()[:-1]), r"not a complete safetensors file .*end at byte"),
    "long shard": (lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes() + b"x"), r"not a complete safetensors file .*end at byte"),
    "empty shard": (lambda f: first_shard(f).write_bytes(b""), r"not a complete safetensors file .*a header of 0 bytes in a file of 0"),
    "huge head": (lambda f: first_shard(f).write_bytes(b"\xff" * 64), r"a header of [0-9,]+ bytes in a file of 64"),
    "head is no JSON": (lambda f: first_shard(f).write_bytes(struct.pack("<Q", 2) + b"{]"), r"not a complete safetensors file \(JSONDecodeError"),
    "head is a list": (lambda f: first_shard(f).write_bytes(struct.pack("<Q", 2) + b"[]"), r"not a complete safetensors file"),
    "another type": (lambda f: rewrite_header(first_shard(f), lambda h: first_entry(h).update(dtype="F8_E4M3")), r"is of type F8_E4M3; F32, BF16, F16 are supported"),
    "integers": (lambda f: rewrite_header(first_shard(f), lambda h: first_entry(h).update(dtype="I32")), r"is of type I32"),
    "type of another size": (lambda f: rewrite_header(first_shard(f), lambda h: first_entry(h).update(dtype="F16")), r"of type F16 and shape .* has bytes \d+ to \d+"),
    "shape of another size": (lambda f: rewrite_header(first_shard(f), lambda h: first_entry(h)["shape"].append(2)), r"and shape .* has bytes \d+ to \d+"),
    "negative shape": (lambda f: rewrite_header(first_shard(f), lambda h: first_entry(h).update(shape=[-1, -1])), r"has shape \[-1, -1\]"),
    "offsets that overlap": (lambda f: rewrite_header(max(f.glob("model-*")), lambda h: h.update(x={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})), r"not a complete safetensors file"),
    "no shape": (lambda f: rewrite_header(first_shard(f), lambda h: first_entry(h).pop("shape")), r"not a complete safetensors file \(KeyError"),
    "renamed tensor": (lambda f: rewrite_header(first_shard(f), lambda h: h.update(other=h.pop(min(n for n in h if n != "__metadata__")))), r"index.json and .* disagree"),
    "index is no JSON": (lambda f: (f / "model.safetensors.index.json").write_text("{"), r"is not an index of weights"),
    "index is empty": (lambda f: edit_index(f, dict.clear), r"its weight_map is empty"),
    "index without a map": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), r"is not an index of weights \(KeyError"),
    "index leaves the folder": (lambda f: edit_index(f, lambda m: m.update({min(m): "../x.safetensors"})), r"not a .safetensors file in this folder"),
    "index with a NUL": (lambda f: edit_index(f, lambda m: m.update({min(m): "a\0.safetensors"})), r"index.json names a file 'a.x00.safetensors', and no file can have that name"),
    "index with half a character": (lambda f: edit_index(f, lambda m: m.update({min(m): "a\ud800.safetensors"})), r"names a file 'a.ud800.safetensors', and no"),
    "index names a pickle": (lambda f: edit_index(f, lambda m: m.update({min(m): "pytorch_model.bin"})), r"'pytorch_model.bin', which is not a .safetensors"),
    "index lacks a tensor": (lambda f: edit_index(f, lambda m: m.pop("model.norm.weight")), r"disagree"),
    "index and single file": (lambda f: shutil.copy(first_shard(f), f / "model.safetensors"), r"has both model.safetensors.index.json and model.safetensors"),
    "no weights": (lambda f: [path.unlink() for path in f.glob("model*")], r"has neither model.safetensors nor"),
    "not a number": (lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes()[:-4] + struct.pack("<f", float("nan"))), r"must hold finite numbers"),
}  # fmt: skip


KEPT: dict[str, tuple[str, bytes, str]] = {
    "tokenizer.json cut short": ("tokenizer.json", b"{", r"tokenizer.json is not JSON .* copy it again, or remove it"),
    "tokenizer.json empty": ("tokenizer.json", b"", r"tokenizer.json is not JSON"),
    "tokenizer.json no text": ("tokenizer.json", b"\xff", r"tokenizer.json is not text in UTF-8"),
    "tokenizer.json deep": ("tokenizer.json", b"[" * 100_000, r"tokenizer.json is not JSON"),
    "tokenizer.json a list": ("tokenizer.json", b"[]", r"tokenizer.json must hold an object; it holds an array"),
    "tokenizer.json without a model": ("tokenizer.json", b'{"model": 1}', r"tokenizer.json must hold an object named model"),
    "tokenizer.json of another kind": ("tokenizer.json", b'{"model": {"type": "?"}}', r"not a tokenizer that the library tokenizers can read"),
    "tokenizer_config.json a list": ("tokenizer_config.json", b"[]", r"tokenizer_config.json must hold an object; it holds an array"),
    "special tokens cut short": ("special_tokens_map.json", b"{", r"special_tokens_map.json is not JSON"),
    "added tokens a number": ("added_tokens.json", b"3", r"added_tokens.json must hold an object; it holds an integer"),
    "template no text": ("chat_template.jinja", b"\xff", r"chat_template.jinja is not text in UTF-8"),
    "tokenizer.model empty": ("tokenizer.model", b"", r"tokenizer.model is not a SentencePiece model \(it is empty\); copy it again"),
    "tokenizer.model broken": ("tokenizer.model", b"junk", r"tokenizer.model is not a SentencePiece model"),
    "generation config a list": ("generation_config.json", b"[]", r"generation_config.json must hold an object"),
    "bos a word": ("generation_config.json", b'{"bos_token_id": "q"}', r"bos_token_id \('q'\) of .*generation_config.json must be an integer from 0 to 299 or null"),
    "bos a list": ("generation_config.json", b'{"bos_token_id": [1]}', r"bos_token_id \(\[1\]\) of"),
    "bos a fraction": ("generation_config.json", b'{"bos_token_id": 1.0}', r"bos_token_id \(1.0\) of"),
    "eos lists in a list": ("generation_config.json", b'{"eos_token_id": [[1]]}', r"eos_token_id \(\[\[1\]\]\) of .*, a list of them or null"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), KEPT.values(), ids=list(KEPT))
def test_a_file_beside_the_weights_that_nobody_could_use_is_refused_by_name(
    name: str, content: bytes, message: str, folder: Path
) -> None:
    (folder / name).write_bytes(content)
    refused(folder, message)


def test_a_folder_in_a_tokenizer_s_place_is_refused_and_no_link_to_nothing_is_passed_over(folder: Path) -> None:
    (folder / "tokenizer.json").mkdir()
    refused(folder, r"tokenizer.json must be a file, and is not one")
    (folder / "tokenizer.json").rmdir()
    (folder / "tokenizer.json").symlink_to("nowhere")
    refused(folder, r"tokenizer.json must be a file, and is not one")


IDS: dict[str, Any] = {
    "bos_token_id": ["x", [1], 10**30, -5, 1.0, True, 300],
    "eos_token_id": ["a", [2, "a"], [2, 300], {"a": 1}, -1],
    "pad_token_id": [-1, [0], "0"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in IDS.items() for value in values])
def test_an_id_that_no_token_has_is_refused_by_file_and_key(key: str, value: Any, folder: Path) -> None:
    edit_config(folder, **{key: value})
    refused(folder, rf"{key} \(.*\) of .*config.json must be an integer from 0 to 299")


def test_ids_that_may_be_are_taken(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, bos_token_id=None, eos_token_id=[2, 299], pad_token_id=...)
    assert import_hf(folder, tmp_path / "imported").num_parameters


def first_shard_path(folder: Path) -> Path:
    names = sorted(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    return folder / names[0]


@pytest.mark.parametrize(("spoil", "message"), FILES.values(), ids=list(FILES))
def test_files_that_are_not_what_they_claim_are_refused_by_name(
    spoil: Callable[[Path], object], message: str, folder: Path
) -> None:
    spoil(folder)
    refused(folder, message)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]},
        {"dtype": "F32", "shape": [0.5], "data_offsets": [0, 2]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": "ab"},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        7,
    ],
)
def test_a_head_of_nonsense_is_refused_and_never_a_crash(entry: object, folder: Path) -> None:
    text = json.dumps({"x": entry}).encode()
    first_shard(folder).write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    refused(folder, r"not a complete safetensors file")


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_pickle_is_never_opened(name: str, folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "the pickle was opened"
    (folder / name).write_bytes(pickle.dumps(Payload(trap)))
    import_hf(folder, tmp_path / "beside")  # beside whole weights it is not looked at
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    refused(folder, rf"has its weights only in {name}, a pickle, which can run code when it is read and is never read")
    assert not trap.exists()
    pickle.loads((folder / name).read_bytes())
    assert trap.exists(), "the trap works"


def test_a_pickle_under_the_name_of_safetensors_is_a_bad_head(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "the pickle was opened"
    first_shard(folder).write_bytes(pickle.dumps(Payload(trap)))
    refused(folder, r"not a complete safetensors file")
    assert not trap.exists()


def test_the_command_line_says_it_in_one_line_with_exit_code_2(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, attention_bias=True)
    command = [sys.executable, "-m", "pretrain", "import", str(folder), "--to", str(tmp_path / "imported")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: attention_bias (True) of "), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "imported").exists()
    edit_config(folder, attention_bias=False)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported ") and (tmp_path / "imported" / "COMPLETE").is_file()


def test_neither_transformers_nor_megatron_is_needed_to_import(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    script = (
        "import sys\n"
        "sys.modules['transformers'] = sys.modules['safetensors'] = sys.modules['megatron'] = None\n"
        "from pretrain.convert.importing.import_folder import import_hf\n"
        f"import_hf({str(folder)!r}, {str(tmp_path / 'imported')!r})\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, check=True)
