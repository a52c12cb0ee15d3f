"""A tokenizer that is not the model's is refused where files say so, and is never used without a word."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.checkpoint.disk.manifest import Manifest, describe, manifest_bytes, parse_manifest, seal_text
from pretrain.checkpoint.disk.origin import origin_of, origin_text
from pretrain.checkpoint.loading.init_from import check_init_from
from pretrain.config.load import load_run
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.importing.kept_files import BadFileError
from pretrain.convert.ours.other_ids import sign_of_other_ids
from pretrain.inspect.generate import GenerationRequest, generate
from pretrain.model.sampling import Sampling
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.pieces import contradiction, difference, pieces_in
from tokenizer.vocabulary.train import train_tokenizer

V1 = Path(__file__).parents[2] / "golden" / "formats" / "v1"
REQUEST = GenerationRequest(prompt="A", max_new_tokens=1, sampling=Sampling(), device="cpu")


def train_other(folder: Path, *, vocab_size: int) -> Path:
    """A tokenizer of the golden one's specification, of another text."""
    text = Path(shutil.__file__).read_text()
    (folder / "other.jsonl").write_text(json.dumps({"text": text[::-1]}))
    spec = replace(load_tokenizer(V1 / "tokenizer").spec, vocab_size=vocab_size)
    train_tokenizer(spec, [folder / "other.jsonl"], folder / "tokenizer")
    return folder / "tokenizer"


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tokenizer of as many ids."""
    return train_other(tmp_path_factory.mktemp("other"), vocab_size=380)


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of more ids than the model has."""
    return train_other(tmp_path_factory.mktemp("larger"), vocab_size=500)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of another program: an export without its certificate."""
    copied = Path(shutil.copytree(V1 / "export", tmp_path / "hf"))
    (copied / "certificate.json").unlink()
    return copied


def swap(tokenizer: Path, folder: Path, *names: str) -> None:
    for name in names:
        shutil.copyfile(tokenizer / name, folder / name)


def test_two_forms_of_one_tokenizer_are_one_and_a_renamed_piece_changes_nothing(other: Path) -> None:
    forms = pieces_in(V1 / "export")
    assert (
        forms.keys() == {"tokenizer.json", "tokenizer.model"} and contradiction(V1 / "export", vocab_size=380) is None
    )
    one, same = forms.values()
    assert difference(one, same) is None and difference(one, {**same, 4: "<|other|>"}) is None
    differs = difference(one, pieces_in(other)["tokenizer.model"])
    assert differs is not None and " of 380 ids stand for other pieces, first " in differs


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_two_tokenizers_in_one_folder_are_refused_until_one_is_removed(
    name: str, folder: Path, other: Path, tmp_path: Path
) -> None:
    swap(other, folder, name)
    with pytest.raises(
        BadFileError, match=r"hf/tokenizer.json and tokenizer.model beside it are two tokenizers.*remove"
    ):
        import_hf(folder, tmp_path / "imported")
    with pytest.raises(
        ValueError, match=r"are two tokenizers.*give the folder of the model's own with --tokenizer DIR"
    ):
        generate(folder, REQUEST, out=io.StringIO())
    generate(folder, REQUEST, tokenizer=str(V1 / "tokenizer"), out=io.StringIO())
    (folder / name).unlink()
    generate(import_hf(folder, tmp_path / "imported").checkpoint, REQUEST, out=io.StringIO())


def test_a_tokenizer_of_more_ids_than_the_model_has_is_refused_whatever_the_prompt(
    folder: Path, larger: Path, tmp_path: Path
) -> None:
    swap(larger, folder, "tokenizer.json", "tokenizer.model")
    message = r"tokenizer.json has ids up to 499, and the model has 380 \(0 to 379\): it belongs to another model"
    with pytest.raises(ValueError, match=message):
        generate(folder, REQUEST, out=io.StringIO())
    with pytest.raises(BadFileError, match=message):
        import_hf(folder, tmp_path / "imported")


def test_an_import_of_an_earlier_version_with_two_tokenizers_is_neither_used_nor_certified(
    folder: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    swap(other, folder, "tokenizer.json")
    monkeypatch.setattr("pretrain.convert.importing.kept_files.contradiction", lambda *_, **__: None)
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    with pytest.raises(ValueError, match=r"imported/tokenizer.json and tokenizer.model beside it are two tokenizers"):
        generate(checkpoint, REQUEST, out=io.StringIO())
    with pytest.raises(ValueError, match=r"are two tokenizers.*Correct that in the folder"):
        export(checkpoint, tmp_path / "export", ExportOptions(date="2026-01-01", with_shards=False))
    assert not (tmp_path / "export").exists()


def test_a_tokenizer_that_nothing_proves_is_never_used_without_a_word(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")

    def said(model: Path) -> str:
        capsys.readouterr()
        generate(model, REQUEST, out=io.StringIO())
        return capsys.readouterr().err

    proved = import_hf(V1 / "export", tmp_path / "proved").checkpoint
    assert "note:" not in said(V1 / "export") + said(proved)
    unproved = import_hf(folder, tmp_path / "unproved").checkpoint
    assert "note: the tokenizer is the one that hf came with" in said(unproved)
    exported = tmp_path / "export"
    export(unproved, exported, ExportOptions(date="2026-01-01", with_shards=False))
    assert f"note: nothing tells whether the tokenizer of {exported}, an import's, is the model's" in said(exported)
    again = import_hf(exported, tmp_path / "again").checkpoint
    assert "note: the tokenizer is the one that export came with" in said(again), "an export makes it no better"


def test_another_tokenizer_by_name_is_used_with_a_warning(
    folder: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    for model in (folder, checkpoint):
        generate(model, REQUEST, tokenizer=str(V1 / "tokenizer"), out=io.StringIO())
        assert "warning" not in capsys.readouterr().err
        generate(model, REQUEST, tokenizer=str(other), out=io.StringIO())
        assert f"warning: --tokenizer ({other}) is not the tokenizer that came with " in capsys.readouterr().err


def test_a_run_begins_with_an_import_only_with_its_tokenizer(folder: Path, other: Path, tmp_path: Path) -> None:
    checkpoint = import_hf(folder, tmp_path / "imported").checkpoint
    begin = [f"run_dir={tmp_path}/run", f"checkpoint.init_from={checkpoint}", "checkpoint.init_optimizer=fresh"]

    begin.append(f"data.train=[{{prefix: {V1}/shards/train-code}}]")

    def check(tokenizer: Path) -> None:
        run = load_run(V1 / "run.yaml", [*begin, f"data.tokenizer={tokenizer}"])
        check_init_from(run, tokenizer_sha256=load_tokenizer(tokenizer).model_sha256)

    check(V1 / "tokenizer")
    with pytest.raises(
        ValueError, match=r"differs in the tokenizer \(.*imported and config data.tokenizer .*: \d+ of 380"
    ):
        check(other)


def rewrite(checkpoint: Path, name: str, content: dict[str, object]) -> None:
    """Change a file of a checkpoint, or add it, and the seal with it."""
    (checkpoint / name).write_text(json.dumps(content))
    before = parse_manifest((checkpoint / "manifest.json").read_bytes(), checkpoint)
    names = {entry.path for entry in before.files} | {name}
    manifest = manifest_bytes(Manifest(step=before.step, files=tuple(describe(checkpoint, path) for path in names)))
    (checkpoint / "manifest.json").write_bytes(manifest)
    (checkpoint / "COMPLETE").write_text(seal_text(manifest))


def test_a_run_on_ids_of_another_tokenizer_is_not_read_with_its_own(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run = Path(shutil.copytree(V1 / "checkpoint", tmp_path / "run"))
    config = run / "checkpoints" / "step-00000008" / "config.yaml"
    text = config.read_text().replace("tokenizer: tokenizer", f"tokenizer: {V1 / 'tokenizer'}")
    assert text != config.read_text()
    config.write_text(text)
    data = json.loads((config.parent / "data.json").read_text())
    rewrite(config.parent, "data.json", data)
    generate(run, REQUEST, out=io.StringIO())
    rewrite(config.parent, "data.json", data | {"has_other_ids": True})
    message = "need not be the one whose ids its model knows.*its shards were adopted with --ids-of-another-tokenizer"
    with pytest.raises(ValueError, match=message + ".*name the right one with --tokenizer DIR"):
        generate(run, REQUEST, out=io.StringIO())
    for with_shards in (True, False):
        options = ExportOptions(date="2026-01-01", with_shards=with_shards, adds_bos=True)
        with pytest.raises(ValueError, match="no export is certified with it" if with_shards else message):
            export(run, tmp_path / "export", options)
    imported = import_hf(folder, tmp_path / "imported").checkpoint
    generate(run, REQUEST, tokenizer=str(imported / "imported"), out=io.StringIO())


def test_a_run_that_began_with_an_import_is_not_read_with_another_tokenizer(
    folder: Path, other: Path, tmp_path: Path
) -> None:
    imported = import_hf(folder, tmp_path / "imported").checkpoint
    origin = origin_of(imported, step=0, init_from=str(imported), init_optimizer="fresh")
    checkpoint = tmp_path / "run"
    checkpoint.mkdir()
    (checkpoint / "origin.json").write_text(origin_text(origin))
    assert sign_of_other_ids(checkpoint, V1 / "tokenizer") is None
    sign = sign_of_other_ids(checkpoint, other)
    assert sign is not None and f"began with those of {imported.resolve()}, whose tokenizer is another one: " in sign
