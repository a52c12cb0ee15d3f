import json
import subprocess
import sys
from pathlib import Path

import pytest

import tokenizer
from tokenizer.__main__ import main
from tokenizer.shards.shard import open_shard

ROOT = Path(tokenizer.__file__).parent.parent


def test_the_commands_lead_from_documents_to_verified_shards(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, prose = str(corpus / "train/code.jsonl"), str(corpus / "train/prose.jsonl")
    spec = str(ROOT / "tokenizer/specs/tiny-2k.yaml")
    directory, prefix = str(tmp_path / "tok"), str(tmp_path / "shards/code")
    assert main(["train", spec, "--input", code, prose, "--output", directory]) == 0
    assert main(["encode", "--tokenizer", directory, "--input", code, "--output", prefix, "--source", "CPython"]) == 0
    assert main(["verify", prefix, "--deep"]) == 0
    out = capsys.readouterr().out
    assert f"{directory}: 2000 tokens" in out
    assert f"{open_shard(prefix).num_tokens:,} tokens of uint16" in out
    assert "ok" in out
    info = json.loads((tmp_path / "tok/tokenizer-info.json").read_text())
    assert [file["path"] for file in info["input_files"]] == [code, prose]


@pytest.mark.parametrize(
    "form", [["--input", "A", "B"], ["--input", "A", "--input", "B"], ["--input=A", "--input", "B"]]
)
def test_several_inputs_may_follow_one_flag_or_several(
    tmp_path: Path, tokenizer_dir: Path, write_documents, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    paths = {name: write_documents(tmp_path / f"{name}.jsonl", [name]) for name in "AB"}
    flags = [word.replace("A", str(paths["A"])).replace("B", str(paths["B"])) for word in form]
    assert main(["check", *flags, "--tokenizer", str(tokenizer_dir), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["groups"]
    assert (report["num_documents"], report["num_bytes"], report["num_round_trip_failures"]) == (2, 2, 0)


def test_check_prints_a_table_with_every_domain_and_the_first_failure(
    tmp_path: Path, tokenizer_dir: Path, write_documents, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["fine", {"text": "\u2581", "domain": "blocks"}])
    assert main(["check", "--tokenizer", str(tokenizer_dir), "--input", str(path)]) == 0
    out = capsys.readouterr().out
    assert "tokens per word" in out
    assert "prose" in out
    assert f"blocks: first text that decoding does not restore: {path}:2: character 0" in out


def test_check_by_language_writes_its_json_to_a_file_beside_the_table(
    tmp_path: Path, tokenizer_dir: Path, write_documents, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_documents(tmp_path / "a.jsonl", [{"text": "le chat", "domain": "fr"}])
    command = ["check", "--tokenizer", str(tokenizer_dir), "--input", str(path), "--by", "language"]
    assert main([*command, "--output", str(tmp_path / "report.json")]) == 0
    out = capsys.readouterr().out
    assert "language" in out and "normalized" in out
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["by"], content["tokenizer"]) == ("language", str(tokenizer_dir))
    assert [group["name"] for group in content["groups"]] == ["fr"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == content
    assert main([*command, "--output", str(tmp_path / "none" / "report.json")]) == 2
    assert f"folder {tmp_path / 'none'} does not exist; make it" in capsys.readouterr().err
    assert main([*command, "--by", "tongue"]) == 2
    assert "'tongue' is not one of 'domain', 'language'" in capsys.readouterr().err


def test_train_says_what_each_language_gave_and_refuses_one_without_a_share(
    tmp_path: Path, write_documents, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"the cat {n} sat on the mat", "domain": "en"} for n in range(50)]
    path = write_documents(tmp_path / "a.jsonl", rows)
    spec = tmp_path / "spec.yaml"
    spec.write_text("vocab_size: 285\nlanguages: {en: 1.0}\ntraining_characters: 1000\n")
    assert main(["train", str(spec), "--input", str(path), "--output", str(tmp_path / "out")]) == 0
    assert "en: 1,000 of 1,240 characters, from" in capsys.readouterr().out
    other = write_documents(tmp_path / "b.jsonl", [{"text": "x", "domain": "de"}])
    assert main(["train", str(spec), "--input", str(path), str(other), "--output", str(tmp_path / "no")]) == 2
    err = capsys.readouterr().err
    assert f"error: {other}:1: the document has language 'de', but languages names en" in err


def test_a_failed_verification_exits_with_76_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "none")]) == 76
    captured = capsys.readouterr()
    assert "FAILED" in captured.out
    assert f"error: {tmp_path / 'none.json'} does not exist" in captured.err


def test_wrong_input_exits_with_2_on_stderr_without_a_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tokenizer",
        "encode",
        "--tokenizer",
        str(tmp_path),
        "--input",
        "x",
        "--output",
        "y",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "tokenizer-info.json does not exist; train it again" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_unknown_flag_or_a_missing_one_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "--tokenizr", "x"]) == 2
    assert "No such option" in capsys.readouterr().err
    assert main(["train", "spec.yaml", "--output", "x"]) == 2
    assert "Missing option '--input'" in capsys.readouterr().err


def test_a_crash_exits_with_70_and_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("tokenizer.__main__.make_sample_corpus", crash)
    assert main(["sample-corpus", "--output", "x"]) == 70
    assert "RuntimeError: a fault of ours" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["nan", "inf", "1e300"])
def test_a_sample_corpus_of_a_size_without_sense_is_refused(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample-corpus", "--output", str(tmp_path / "x"), "--max-megabytes", size]) == 2
    assert "must be at most 1,000,000; --max-megabytes 4 works" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_sample_corpus_command_writes_four_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample-corpus", "--output", str(tmp_path), "--max-megabytes", "0.6"]) == 0
    assert len(list(tmp_path.rglob("*.jsonl"))) == 4
    assert f"{tmp_path / 'train/code.jsonl'}: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "encode", "verify", "check", "sample-corpus"])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: python -m tokenizer {name}" in capsys.readouterr().out


def test_the_room_imports_neither_torch_nor_pretrain() -> None:
    program = (
        "import sys, tokenizer.__main__; print([m for m in ('torch', 'pretrain', 'megatron') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
