"""What an export starts from: which keys may be other ones, and what a config must say."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fanal.errors import UserError
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.convert.certificate.tokenizer_proof import prove_tokenizer
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.open_model import open_model
from pretrain.convert.ours.source import open_source
from pretrain.convert.ours.target import harm_of
from pretrain.convert.ours.tokenizer_files import ExportTokenizer
from pretrain.convert.theirs.model import CannotLoadError
from tests.unit.convert.folders import TOKENIZER, reseal


@pytest.mark.parametrize(
    "override",
    [
        "data.seq_length=4096",
        "data.seed=7",
        "data.document_mask=true",
        "data.trains=[]",
        "data=1",
        "model.num_layers=2",
    ],
)
def test_an_override_that_would_have_the_card_say_what_was_not_trained_is_refused(
    override: str, tmp_path: Path
) -> None:
    key = override.partition("=")[0]
    with pytest.raises(
        ValueError, match=rf"override '{key}=.*; {key} stays as it was in training. data.tokenizer=DIR works"
    ):
        open_source(tmp_path, [override])


@pytest.mark.parametrize(
    "override", ["data.tokenizer=a", "data.train=[]", "data.validation=[]", "data.phases=[]", "data.train[0].prefix=a"]
)
def test_an_override_that_says_where_the_data_lies_is_taken(override: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a checkpoint's folder or a run's folder with one in it"):
        open_source(tmp_path, [override])


DATA = {
    "no data": (..., r"config.yaml is not the config of a run"),
    "a number": (3, r"config.yaml is not the config of a run"),
    "a list": ([1], r"config.yaml is not the config of a run"),
    "nothing": (None, r"config.yaml is not the config of a run"),
    "no length": ({}, r"config.yaml must have an integer above 0 at data.seq_length; it has None there"),
    "a word": ({"seq_length": "long"}, r"data.seq_length; it has 'long' there"),
    "a list for the length": ({"seq_length": [64]}, r"data.seq_length; it has \[64\] there"),
    "zero": ({"seq_length": 0}, r"data.seq_length; it has 0 there"),
    "true": ({"seq_length": True}, r"data.seq_length; it has True there"),
    "to choose": ({"seq_length": "???"}, r"data.seq_length; it has '\?\?\?' there"),
    "elsewhere": ({"seq_length": "${model.size}"}, r"data.seq_length, '\$\{model.size\}', is to be filled in"),
}


@pytest.mark.parametrize(("data", "message"), DATA.values(), ids=list(DATA))
@pytest.mark.parametrize("reader", ["export", "generate"])
def test_a_config_that_does_not_say_how_long_a_sequence_was_is_damage(
    data: Any, message: str, reader: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "tokenizer.json").write_text(TOKENIZER)
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    config = yaml.safe_load((checkpoint / "config.yaml").read_text()) | {"data": data}
    reseal(checkpoint, "config.yaml", yaml.safe_dump({key: value for key, value in config.items() if value is not ...}))
    with pytest.raises(DamagedCheckpointError, match=message):
        if reader == "export":
            open_source(checkpoint)
        else:
            with open_model(checkpoint):
                pass


def test_an_override_for_an_import_is_refused_since_it_would_change_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text(TOKENIZER)
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    with pytest.raises(UserError, match=r"override 'data.tokenizer=there' must be left out: .*imported"):
        open_source(checkpoint, ["data.tokenizer=there"])
    open_source(checkpoint)


def test_ids_that_an_older_version_has_imported_are_named(folder: Path, tmp_path: Path) -> None:
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    record = json.loads((checkpoint / "import.json").read_text())
    record["config"]["bos_token_id"] = 10**30
    reseal(checkpoint, "import.json", json.dumps(record))
    with pytest.raises(ValueError, match=r"bos_token_id \(10+\) of .*import.json must be an integer from 0 to 299"):
        open_source(checkpoint)


def exported_tokenizer(files: dict[str, str], folder: Path) -> Any:
    """As much of an import's ExportSource as the proof of its tokenizer reads."""
    for name, text in files.items():
        (folder / name).write_text(text)
    tokenizer = ExportTokenizer(
        files={name: text.encode() for name, text in files.items()}, vocab_size=300, bos_id=None, eos_id=None, pad_id=None,
        adds_bos=False, encode=None, oracle=None, sha256=None,
    )  # fmt: skip
    return SimpleNamespace(tokenizer=tokenizer, model=SimpleNamespace(vocab_size=300))


def test_an_import_s_tokenizer_is_loaded_as_a_user_loads_it(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    source = exported_tokenizer(
        {"tokenizer.json": TOKENIZER, "tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast"}'},
        tmp_path,
    )
    assert source.tokenizer.is_there and prove_tokenizer(tmp_path, source).oracle == "none"
    source.model.vocab_size = 0
    with pytest.raises(CannotLoadError, match=r"gives 'The lamp at the stern' the ids \[.*; the model has 0 to -1"):
        prove_tokenizer(tmp_path, source)
    for name, content in (("tokenizer.json", "{"), ("tokenizer_config.json", "[]")):
        spoilt = exported_tokenizer({"tokenizer.json": TOKENIZER, name: content}, tmp_path)
        with pytest.raises(CannotLoadError, match="transformers cannot load the tokenizer: "):
            prove_tokenizer(tmp_path, spoilt)
    none = exported_tokenizer({"special_tokens_map.json": "{}"}, tmp_path)
    assert not none.tokenizer.is_there and prove_tokenizer(tmp_path, none).num_texts == 0


def test_links_in_a_circle_are_no_checkpoint_and_no_place_for_an_export(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match=r"CHECKPOINT \(.*/a\) must be a checkpoint's folder"):
        open_source(tmp_path / "a")
    assert harm_of(tmp_path / "a" / "export") is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_layers": 0}, r"num_layers \(0\) must be from 1 to 10,000"),
        ({"num_layers": 10**9}, r"num_layers \(1000000000\) must be from 1 to 10,000"),
        ({"hidden_size": -4}, r"hidden_size \(-4\) must be from 1"),
        (
            {"num_query_groups": 5},
            r"model.num_attention_heads \(\d+\) must be a multiple of model.num_query_groups \(5\)",
        ),
    ],
)
@pytest.mark.parametrize("reader", ["export", "generate"])
def test_a_config_whose_model_cannot_be_is_damage(
    change: dict[str, int], problem: str, reader: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "tokenizer.json").write_text(TOKENIZER)
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    reseal(checkpoint, "config.yaml", yaml.safe_dump(config | {"model": config["model"] | change}))
    with pytest.raises(DamagedCheckpointError, match=rf"config.yaml does not describe a model \({problem}"):
        if reader == "export":
            open_source(checkpoint)
        else:
            with open_model(checkpoint):
                pass
