"""Bugs of every kind end every command with their traceback and code 70; an error for people is one line and its own code."""

import io
import pickle
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import launch.chain.job
import launch.preflight.preflight
import launch.status.status
from fanal.errors import DamageError, FanalError, PassingError, UserError, exit_code_of, run_guarded
from launch.__main__ import cli as launch_cli
from launch.chain.decide import Facts, decide, run_exit_code
from launch.slurm import NoAnswerError, SlurmError
from pretrain.__main__ import _guard
from pretrain.checkpoint.saving import writer_process
from pretrain.parallel.local import _portable, run_local_ranks
from tests.errors.planted import BUGS, line_of, meet, planted
from tokenizer.__main__ import main as tokenizer_main
from tokenizer.documents.sample_corpus import make_sample_corpus
from tokenizer.encoding import block_encoder
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

ROOT = Path(__file__).parents[2]


def is_crash(said: str, code: int, bug: str) -> None:
    assert code == 70, said
    assert "Traceback (most recent call last)" in said
    assert f"in {bug}\n" in said and line_of(bug) in said, "the traceback names the planted line"
    assert not said.startswith("error: ")


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_a_traceback_and_70_for_every_guard(bug: str, capfd: pytest.CaptureFixture[str]) -> None:
    for guard in (run_guarded, _guard):
        code = guard(planted(bug))
        is_crash(capfd.readouterr().err, code, bug)


def test_a_device_that_failed_is_a_traceback_and_a_code_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    for words, code in (
        ("CUDA error: uncorrectable ECC error encountered\nmore", 71),
        ("CUDA error: out of memory", 70),
    ):

        def fails(words: str = words) -> int:
            raise RuntimeError(words)

        assert run_guarded(fails) == code
        assert "Traceback" in capfd.readouterr().err
    assert exit_code_of(ValueError("hardware stack error")) == 70, "only what PyTorch raises"


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("lr (-1) must be above 0"), 2), (DamageError("a.bin changed"), 76), (PassingError("a.bin: I/O error"), 70)],
)  # fmt: skip
def test_an_error_for_people_is_one_line_and_its_own_code(
    error: FanalError, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def act() -> int:
        raise error

    assert run_guarded(act) == _guard(act) == code
    assert capfd.readouterr().err == f"error: {error}\n" * 2


def test_an_error_for_people_is_one_line_whatever_a_library_said(capfd: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        raise UserError("a.yaml cannot be read (while parsing\n  in line 1,  column 2\n); give it a value")

    assert run_guarded(act) == 2
    assert (
        capfd.readouterr().err
        == "error: a.yaml cannot be read (while parsing in line 1,  column 2 ); give it a value\n"
    )


def test_who_need_not_speak_is_silent_and_whoever_asked_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[Exception] = []
    error = UserError("wrong")

    def act() -> int:
        raise error

    assert run_guarded(act, speaks=lambda: False, then=told.append) == 2
    assert told == [error] and capfd.readouterr().err == ""
    run_guarded(planted("int_of_a_word"), speaks=lambda: False, then=told.append)
    assert isinstance(told[1], ValueError) and line_of("int_of_a_word") in capfd.readouterr().err


@pytest.fixture(scope="module")
def encode_words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An encode with two workers."""
    folder = tmp_path_factory.mktemp("encode")
    make_sample_corpus(folder, max_bytes_per_domain=100_000)
    text = folder / "train" / "prose.jsonl"
    train_tokenizer(TokenizerSpec(vocab_size=400), [text], folder / "tokenizer")
    words = [
        "encode",
        "--tokenizer",
        str(folder / "tokenizer"),
        "--input",
        str(text),
        "--output",
        str(folder / "shard"),
    ]
    return [*words, "--workers", "2"]


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_an_encode_worker_is_a_traceback_that_names_its_line(
    bug: str, encode_words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in ("documents.blocks", "encoding.encode"):
        monkeypatch.setattr(f"tokenizer.{module}.BLOCK_BYTES", 20_000)  # no more workers than blocks
    monkeypatch.setattr(block_encoder, "parse_block", planted(bug))
    code = tokenizer_main(encode_words)
    is_crash(capfd.readouterr().err, code, bug)


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_launch_is_a_traceback_that_names_its_line(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, words in (
        (launch.chain.job, "begin", ["job", "begin", str(tmp_path)]),
        (launch.chain.job, "end", ["job", "end", str(tmp_path)]),
        (launch.status.status, "_check_is_run", ["status", str(tmp_path)]),
        (launch.preflight.preflight, "load_run_to_train", ["preflight", "none.yaml", "--site", "none"]),
    ):
        monkeypatch.setattr(module, name, planted(bug))
        done = CliRunner().invoke(launch_cli, words)
        is_crash(done.output, done.exit_code, bug)


def test_a_bug_on_a_local_rank_keeps_its_traceback_in_the_log_of_that_rank(tmp_path: Path) -> None:
    for bug in BUGS:
        logs = tmp_path / bug
        code, failure = run_local_ranks(
            meet, bug, preload=["tests.errors.planted"], num_ranks=1, device_type="cpu", log_dir=logs
        )
        assert failure is not None and not isinstance(failure.error, FanalError)
        is_crash(failure.text, code, bug)
        is_crash((logs / "rank-00000.log").read_text(), code, bug)


def test_a_bug_in_the_writer_process_is_told_to_its_rank_and_leaves_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer_process, "_write", planted("tuple_unpacking"))
    command = b'{"act": "write", "start": 0, "length": 1}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(command)))
    writer_process.serve(0)
    said = capfd.readouterr()
    assert '"failed": "ValueError: not enough values to unpack' in said.out
    is_crash(said.err, 70, "tuple_unpacking")


def subclasses(kind: type[FanalError]) -> Iterator[type[FanalError]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_error_for_people_keeps_type_and_words_from_process_to_process() -> None:
    kinds = list(subclasses(FanalError))
    assert {UserError, DamageError, PassingError, SlurmError, NoAnswerError} <= set(kinds)
    for kind in kinds:
        for again in (pickle.loads(pickle.dumps(kind("words"))), _portable(kind("words"))):
            assert type(again) is kind and str(again) == "words" and exit_code_of(again) == kind.exit_code


def test_a_controller_that_does_not_answer_is_nobody_s_wrong_input() -> None:
    assert exit_code_of(NoAnswerError("squeue: no answer")) == 70
    assert exit_code_of(SlurmError("sbatch: invalid account")) == 2


def test_a_chain_goes_on_after_a_bug_and_ends_for_wrong_input_alone() -> None:
    bug = decide(Facts(exit_code=run_exit_code({0: 70, 1: 70}, 2), jobs_waiting=40), max_restarts_without_checkpoint=3)
    assert (bug.action, bug.reason) == ("requeue", "a crash (exit code 70)")
    wrong = Facts(exit_code=run_exit_code({0: 2, 1: 70}, 2), said="optim.lr (-1.0) must be above 0", jobs_waiting=40)
    said = decide(wrong, max_restarts_without_checkpoint=3)
    assert (said.action, said.reason) == (
        "stop",
        "the input is wrong (exit code 2): optim.lr (-1.0) must be above 0",
    )


def test_nothing_in_the_product_looks_at_frames_or_at_what_an_error_was_made_of() -> None:
    looks = {"tb_frame", "tb_next", "tb_lasti", "f_globals", "f_code", "__context__", "is_damage"}
    paths = [
        path for room in ("fanal", "kernels", "tokenizer", "pretrain", "launch") for path in (ROOT / room).rglob("*.py")
    ]
    assert len(paths) > 150
    for path in paths:
        if path.name in ("quick_imports.py", "places.py"):
            continue  # look at who is being imported, and at which line of the trainer makes a tensor, and see no error
        with path.open("rb") as stream:
            names = {token.string for token in tokenize.tokenize(stream.readline) if token.type == tokenize.NAME}
        assert not names & looks, f"{path} looks at {names & looks}"
