"""A model from elsewhere is trained on with its own tokenizer, and its export has the very files that it came with."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pretrain.config.load import load_run
from pretrain.convert.importing.import_folder import import_hf
from tests.dist.harness import Trace, run_and_trace
from tests.runs import their_tokenizers
from tests.runs.their_tokenizers import corpus_texts
from tests.unit.convert.folders import save_model
from tokenizer.encoding.encode import encode
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.import_folder import import_tokenizer
from tokenizer.vocabulary.load import load_tokenizer

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
NO_TOKENIZER = {"config.json", "generation_config.json", "model.safetensors"}
ROWS = 1024
"""Rows of the embedding that was imported: more than the tokenizer's ids, as Qwen's has."""
MESSAGES = [
    {"role": "user", "content": "Où <|im_end|> est-il?"},
    {"role": "assistant", "content": "<think>\n</think>Ici."},
]


def pretrain(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "pretrain", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@dataclass(frozen=True)
class Lab:
    """A folder of Qwen's kind, and a run on it."""

    folder: Path
    hf: Path
    tokenizer: Tokenizer
    config: Path
    trace: Trace


def write_run(folder: Path, tokenizer: Path, **data: object) -> Path:
    """The YAML of a run that begins with folder/imported."""
    config = {
        "run_dir": str(folder / "run"),
        "model": yaml.safe_load((folder / "imported" / "config.yaml").read_text())["model"],
        "data": {"tokenizer": str(tokenizer), "seq_length": 64, "document_mask": True,
                 "train": [{"prefix": str(folder / "train")}], "validation": [{"prefix": str(folder / "validation")}], **data},
        "optim": {"lr": 1e-3},
        "train": {"train_steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32",
                  "validation_interval": 3, "validation_samples": 4},
        "parallel": {"device": "cpu", "timeout_s": 60},
        "checkpoint": {"init_from": str(folder / "imported"), "init_optimizer": "fresh"},
        "log": {"interval": 1, "tensorboard": False},
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def make_lab(folder: Path, make_tokenizer: Callable[[Path], Path], *, kind: str, append_bos: bool | None = None) -> Lab:
    """Model, tokenizer, shards and three steps of training."""
    theirs = make_tokenizer(folder / "theirs")
    hf = save_model(
        folder / "hf", kind=kind, vocab_size=ROWS, bos_token_id=None, **({"head_dim": 8} if kind == "qwen3" else {})
    )
    for path in theirs.iterdir():
        if path.name != "config.json":
            shutil.copy(path, hf)
    import_hf(hf, folder / "imported")
    tokenizer = import_tokenizer(hf, folder / "tokenizer")
    for split, texts in (("train", corpus_texts()[1::2]), ("validation", corpus_texts()[::4])):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text[:20_000], "domain": "all"}) + "\n" for text in texts))
        encode(tokenizer.directory, [path], folder / split, append_bos, num_workers=1)
    config = write_run(folder, tokenizer.directory)
    return Lab(folder, hf, tokenizer, config, run_and_trace(load_run(config)))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A run on a tokenizer of Qwen's kind."""
    return make_lab(tmp_path_factory.mktemp("lab"), their_tokenizers.qwen, kind="qwen3")


@pytest.fixture(scope="module")
def exported(lab: Lab) -> Path:
    """The export of the run."""
    assert lab.trace.exit_code == 0, lab.trace.failure
    done = pretrain("export", lab.folder / "run", "--to", lab.folder / "export")
    assert done.returncode == 0, done.stderr
    assert "get the ids of tokenizers" in done.stdout and "rows without a token were left out" in done.stdout
    return lab.folder / "export"


def test_training_and_its_log_count_the_tokenizers_ids_and_no_padding_rows(lab: Lab, exported: Path) -> None:
    assert lab.tokenizer.vocab_size == 907
    certificate = json.loads((exported / "certificate.json").read_text())
    figures = certificate["figures"]
    assert certificate["compared"]["vocabulary_rows"] == 907
    assert certificate["compared"]["vocabulary_rows_left_out"] == ROWS - 907
    (domain,) = figures["validation_loss"]["domains"]
    assert (
        domain["exported"]
        == pytest.approx(domain["logged"], abs=1e-4)
        == pytest.approx(lab.trace.validation[3]["all"], abs=1e-4)
    )
    ids = figures["tokenizer"]
    assert (ids["oracle"], ids["num_different"], ids["num_documents"]) == (
        "tokenizers",
        0,
        ids["num_documents_equal_to_shard"],
    )
    assert certificate["checkpoint"]["tokenizer_sha256"] == lab.tokenizer.model_sha256


def test_the_export_has_every_file_of_the_tokenizer_byte_for_byte(lab: Lab, exported: Path) -> None:
    names = {path.name for path in lab.hf.iterdir()} - NO_TOKENIZER
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt"} == names
    for name in names:
        assert (exported / name).read_bytes() == (lab.hf / name).read_bytes(), name


def test_chat_template_and_added_tokens_survive(lab: Lab, exported: Path) -> None:
    before, after = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (lab.hf, exported))
    for kind in (True, False):
        assert after.apply_chat_template(MESSAGES, tokenize=kind) == before.apply_chat_template(MESSAGES, tokenize=kind)
    assert after.get_added_vocab() == before.get_added_vocab()
    assert "<think>" in after.get_added_vocab()


def test_the_export_is_imported_again_with_its_tokenizer(lab: Lab, exported: Path, tmp_path: Path) -> None:
    again = import_tokenizer(exported, tmp_path / "tokenizer")
    assert again.model_sha256 == lab.tokenizer.model_sha256
    assert import_hf(exported, tmp_path / "model").num_parameters


def test_generate_reads_a_name_as_text_from_the_run_and_its_export_alike(lab: Lab, exported: Path) -> None:
    said = [
        pretrain("generate", folder, "--prompt", "a <|im_end|> b", "--max-new-tokens", 4)
        for folder in (lab.folder / "run", exported)
    ]
    assert [done.returncode for done in said] == [0, 0], said[0].stderr + said[1].stderr
    assert said[0].stdout == said[1].stdout and said[0].stdout.startswith("a <|im_end|> b")


def test_a_run_is_refused_with_another_tokenizer_than_its_shards_or_its_import(lab: Lab, tmp_path: Path) -> None:
    other = import_tokenizer(their_tokenizers.spm_model(tmp_path / "hf"), tmp_path / "other").directory
    shards = pretrain(
        "train", lab.config, f"data.tokenizer={other}", f"run_dir={tmp_path / 'a'}", "model.vocab_size=1280"
    )
    assert shards.returncode == 2 and "set data.tokenizer to the one it was encoded with" in shards.stderr
    for split in ("train", "validation"):
        encode(other, [lab.folder / f"{split}.jsonl"], tmp_path / split, num_workers=1)
    places = [f"data.train=[{{prefix: {tmp_path}/train}}]", f"data.validation=[{{prefix: {tmp_path}/validation}}]"]
    # As many rows as the import, so that nothing but the tokenizer is in the way.
    info = load_tokenizer(other)
    assert info.vocab_size > ROWS
    begun = pretrain(
        "train", lab.config, f"data.tokenizer={other}", f"run_dir={tmp_path / 'b'}", *places, "model.vocab_size=1200"
    )
    assert begun.returncode == 2 and "the tokenizer (" in begun.stderr and "stand for other pieces" in begun.stderr


def test_an_export_that_transformers_reads_otherwise_is_refused_until_its_class_is_the_plain_one(
    tmp_path: Path,
) -> None:
    lab = make_lab(
        tmp_path, lambda folder: their_tokenizers.smollm(folder, "GPT2Tokenizer"), kind="llama", append_bos=True
    )
    assert lab.trace.exit_code == 0, lab.trace.failure
    refused = pretrain("export", tmp_path / "run", "--to", tmp_path / "export")
    assert refused.returncode == 76 and not (tmp_path / "export").exists()
    assert "the exported tokenizer's ids differ from those of tokenizers" in refused.stderr
    assert '"tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json' in refused.stderr
    shutil.copytree(lab.hf, tmp_path / "plain")
    path = tmp_path / "plain" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    import_tokenizer(tmp_path / "plain", tmp_path / "plain tokenizer")
    done = pretrain(
        "export", tmp_path / "run", "--to", tmp_path / "export", f"data.tokenizer={tmp_path / 'plain tokenizer'}"
    )
    assert done.returncode == 0, done.stderr
    says = "puts no BOS in front of a text, and documents of the training shards start with one"
    assert f"warning: the tokenizer of this export, whose files are kept as they were, {says}" in done.stderr


def test_an_export_keeps_the_files_and_so_takes_no_word_on_bos(lab: Lab, tmp_path: Path) -> None:
    words = ("export", lab.folder / "run", "--to", tmp_path / "export", "--without-shards")
    refused = pretrain(*words, "--bos")
    assert refused.returncode == 2 and "--bos must be left out: the tokenizer in" in refused.stderr
    assert pretrain(*words).returncode == 0
