"""An encode run that dies leaves nothing that could be taken for a shard, and the next run is as if it had never been."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fanal.errors import UserError
from tokenizer.documents.column_fields import ColumnFields
from tokenizer.encoding.encode import encode
from tokenizer.shards import writer as writer_module
from tokenizer.shards.shard import ShardError, ShardWriter, open_shard
from tokenizer.verify_shards import verify

ROOT = Path(__file__).parents[3]
KILLS = 20


@pytest.fixture(scope="module")
def big_input(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for a run of some tenths of a second on two workers."""
    path = tmp_path_factory.mktemp("big") / "a.jsonl"
    lines = (corpus / "train" / "prose.jsonl").read_bytes()
    path.write_bytes(lines * (12_000_000 // len(lines)))
    return path


def command(tokenizer_dir: Path, text: Path, prefix: Path, *options: str) -> list[str]:
    words = ["encode", "--tokenizer", str(tokenizer_dir), "--input", str(text), "--output", str(prefix), *options]
    return [sys.executable, "-m", "tokenizer", *words]


def files_of(prefix: Path) -> dict[str, bytes]:
    return {path.name.partition(".")[2]: path.read_bytes() for path in prefix.parent.glob(f"{prefix.name}.*")}


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in listed]


@pytest.mark.parametrize("options", [(), ("--shuffle-seed", "5")], ids=["in order", "shuffled"])
def test_a_run_killed_at_any_moment_and_started_again_equals_a_straight_run(
    tmp_path: Path, tokenizer_dir: Path, big_input: Path, options: tuple[str, ...]
) -> None:
    straight, again = tmp_path / "straight", tmp_path / "again"
    words = (*options, "--workers", "2")
    started = time.monotonic()
    subprocess.run(command(tokenizer_dir, big_input, straight, *words), cwd=ROOT, check=True)
    whole_s = time.monotonic() - started
    generator = random.Random(4)
    killed = 0
    for _ in range(KILLS // 2):
        process = subprocess.Popen(command(tokenizer_dir, big_input, again, *words), cwd=ROOT)
        time.sleep(generator.uniform(0.3, 1.0) * whole_s)
        workers = children_of(process.pid) if process.poll() is None else []
        process.kill()
        process.wait()
        if Path(f"{again}.json").exists():  # it was done already
            assert files_of(again) == files_of(straight)
            for path in tmp_path.glob("again.*"):
                path.unlink()
            continue
        killed += 1
        with pytest.raises(ShardError, match=r"again.json does not exist"):
            open_shard(again)
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "a worker outlives the run"
            time.sleep(0.01)
    assert killed >= KILLS // 4, "most runs must be cut off"
    subprocess.run(command(tokenizer_dir, big_input, again, *words), cwd=ROOT, check=True)
    assert files_of(again) == files_of(straight)
    assert files_of(again).keys() == {"bin", "documents.parquet", "idx", "json"}


STEPS = ("sync_path", "sync", "record_bytes", "write_index")


@pytest.mark.parametrize("renames", [0, 1, 2, 3, 4])
def test_a_kill_between_two_renames_is_cleaned_up_by_the_next_run(
    tmp_path: Path, tokenizer_dir: Path, write_documents, renames: int
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["one", "two"])
    script = (
        "import os, pathlib\n"
        "from tokenizer.documents.column_fields import ColumnFields\n"
        "from tokenizer.encoding.encode import encode\n"
        f"left = {renames}\n"
        "rename = pathlib.Path.rename\n"
        "def dying(self, target):\n"
        "    global left\n"
        "    if left == 0: os.kill(os.getpid(), 9)\n"
        "    left -= 1\n"
        "    return rename(self, target)\n"
        "pathlib.Path.rename = dying\n"
        f"encode({str(tokenizer_dir)!r}, [{str(path)!r}], {str(tmp_path / 'shard')!r}, num_workers=1, "
        "columns=ColumnFields())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    if renames < 4:
        assert done.returncode == -signal.SIGKILL
        assert not (tmp_path / "shard.json").exists()
        encode(tokenizer_dir, [path], tmp_path / "shard", columns=ColumnFields())
    assert open_shard(tmp_path / "shard").num_documents == 2
    suffixes = ("bin", "documents.parquet", "idx", "json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", *(f"shard.{suffix}" for suffix in suffixes)]


def test_files_that_a_killed_run_did_not_write_are_never_removed(tmp_path: Path) -> None:
    for suffix in ("bin", "idx"):
        (tmp_path / f"a.{suffix}").write_bytes(b"precious")
    (tmp_path / "a.json.part").write_text("{}")
    with pytest.raises(
        ShardError, match=r"a.bin exists without a manifest, .* `fanal tokenizer adopt .*a --tokenizer DIR` makes one"
    ):
        ShardWriter(tmp_path / "a", vocab_size=9, tokenizer_sha256="ab" * 32).__enter__()
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "a.idx").read_bytes() == b"precious"


def test_two_writers_of_one_prefix_do_not_meet(tmp_path: Path) -> None:
    def writer() -> ShardWriter:
        return ShardWriter(tmp_path / "a", vocab_size=9, tokenizer_sha256="ab" * 32)

    with pytest.raises(KeyError), writer() as first:
        first.add_document([1])
        with pytest.raises(ShardError, match=r"a is being written by another process; wait for it"):
            writer().__enter__()
        assert (tmp_path / "a.bin.part").exists()
        raise KeyError
    with pytest.raises(KeyError), writer():
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_leftovers_of_another_size_are_not_taken_for_ours(tmp_path: Path, tokenizer_dir: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["one"])
    encode(tokenizer_dir, [path], tmp_path / "shard")
    (tmp_path / "shard.json").rename(tmp_path / "shard.json.part")
    with (tmp_path / "shard.bin").open("ab") as stream:
        stream.write(b"xx")
    with pytest.raises(ShardError, match=r"shard.bin exists without a manifest"):
        encode(tokenizer_dir, [path], tmp_path / "shard")


def tmpfs_command(size: str, folder: Path, words: list[str]) -> list[str]:
    """A shell line that runs words while a tmpfs of that size lies over the folder, in a mount namespace of its own."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && "$@"; code=$?; ls -A "$0"; exit $code'
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--mount", *user, "sh", "-c", script, str(folder), *words]


@pytest.mark.parametrize("size", ["400k", "1500k", "3m"])
@pytest.mark.parametrize("options", [(), ("--shuffle-seed", "5")], ids=["in order", "shuffled"])
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(
    tmp_path: Path, tokenizer_dir: Path, big_input: Path, size: str, options: tuple[str, ...]
) -> None:
    if shutil.which("unshare") is None or subprocess.run(tmpfs_command("1m", tmp_path, ["true"])).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    small = tmp_path / "small"
    small.mkdir()
    words = command(tokenizer_dir, big_input, small / "shard", *options)
    done = subprocess.run(tmpfs_command(size, small, words), cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "No space left on device; fix that and run again" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "", "nothing is left in the folder"


@pytest.mark.parametrize("failing", STEPS)
def test_an_error_at_any_step_of_finishing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer_dir: Path, write_documents, failing: str
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["one"])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_module, failing, fail)
    with pytest.raises(UserError, match=r"shard cannot be written: No space left"):
        encode(tokenizer_dir, [path], tmp_path / "shard", num_workers=1, columns=ColumnFields())
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_killed_worker_ends_the_run_with_advice(tmp_path: Path, tokenizer_dir: Path, big_input: Path) -> None:
    process = subprocess.Popen(
        command(tokenizer_dir, big_input, tmp_path / "shard", "--workers", "2"),
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (workers := children_of(process.pid)):
        time.sleep(0.005)
        assert process.poll() is None, "the run ended before it had workers"
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 70
    assert "a worker process was killed, often because memory ran out: --workers 1 uses the least" in stderr
    assert not list(tmp_path.glob("shard*"))
    assert verify([tmp_path / "shard"])[0].problems


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_run_that_is_told_to_end_cleans_up(
    tmp_path: Path, tokenizer_dir: Path, big_input: Path, ending: signal.Signals
) -> None:
    words = command(tokenizer_dir, big_input, tmp_path / "shard", "--workers", "2", "--shuffle-seed", "1")
    process = subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background jobs ignore it
    )  # fmt: skip
    while not list(tmp_path.glob("shard.shuffle-*")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(ending)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == (143 if ending == signal.SIGTERM else 130), stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", ["", "folder/", "."])
def test_a_prefix_without_a_name_is_refused(prefix: str) -> None:
    with pytest.raises(
        ShardError, match=r"must end in a name, to which .bin, .idx and .json are added; shards/train works"
    ):
        ShardWriter(prefix, vocab_size=9, tokenizer_sha256="ab" * 32)


def test_what_a_killed_shuffle_left_goes_with_the_next_run_of_that_prefix_alone(tmp_path: Path) -> None:
    for name in ("a.shuffle-000-heads.part", "a.shuffle-017-tokens.part", "ab.shuffle-000-heads.part"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a", vocab_size=9, tokenizer_sha256="ab" * 32):
        assert not list(tmp_path.glob("a.shuffle-*"))
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["ab.shuffle-000-heads.part"]
