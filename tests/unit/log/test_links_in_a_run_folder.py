"""Links that a colleague left under the names that a run writes: the files that they lead to stay as they are."""

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.files import write_bytes_durably, write_whole
from fanal.new_files import create_file, open_to_append, write_new
from fanal.output import append_to_log
from fanal.ownership import make_requests_dir
from fanal.run_folder import LOCK, METRICS_FILE, part_name
from pretrain.checkpoint.disk.retention import set_aside
from pretrain.checkpoint.saving.write_job import set_part_aside
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.log.run_dir import hold_run_dir, open_run_dir
from pretrain.log.sinks import open_sinks
from pretrain.parallel.environment import note_exit_code
from pretrain.train.flight_record import write_flight_record
from pretrain.train.watchdog import open_watchdog
from tests.two_users import COLLEAGUE, colleague, needs_two_users, share, shared_place
from tests.unit.log.test_sinks import WORLD

ROOT = Path(__file__).parents[3]


def run_in(folder: Path) -> RunConfig:
    return load_run(ROOT / "configs" / "tiny.yaml", [f"run_dir={folder}", "log.tensorboard=false"])


def hold(folder: Path) -> None:
    with hold_run_dir(folder, rank=0):
        pass


def sinks(folder: Path) -> None:
    with open_sinks(run_in(folder), WORLD, start_step=0):
        pass


def leave_exit_code(folder: Path) -> None:
    os.environ["PRETRAIN_EXIT_CODES"] = str(folder)
    try:
        note_exit_code(2)
    finally:
        del os.environ["PRETRAIN_EXIT_CODES"]


def hang(folder: Path) -> None:
    with open_watchdog(run_in(folder).train.watchdog, str(folder), rank=0) as watchdog:
        watchdog._store("the stacks")


def part_aside(folder: Path) -> None:
    (folder / part_name(3)).mkdir()
    set_part_aside(folder, 3, "why")


def aside(folder: Path) -> None:
    (folder / "step-00000003").mkdir()
    set_aside(folder / "step-00000003", ["why"])


WRITERS: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "the lock": (LOCK, hold, True),
    "the records": (METRICS_FILE, sinks, True),
    "a log": ("logs/rank-00000.log", lambda folder: append_to_log(folder / "logs" / "rank-00000.log", "it failed"), False),
    "stacks": ("logs/stacks-rank-00000.txt", hang, True),
    "collectives": ("logs/collectives-rank-00000.json", lambda folder: write_flight_record(folder / "logs" / "collectives-rank-00000.json"), False),
    "an exit code": ("rank-00000", leave_exit_code, False),
    "why a part is none": ("step-00000003.part.REASON", part_aside, False),
    "why a checkpoint is bad": ("step-00000003.bad.REASON", aside, False),
    "a whole file": ("config.yaml.part", lambda folder: write_whole(folder / "config.yaml", "mine"), False),
    "a durable file": ("a.json.part", lambda folder: write_bytes_durably(folder / "a.json", b"mine"), False),
    "a new file": ("new", lambda folder: write_new(folder / "new", "mine"), False),
}  # fmt: skip
"""Name of the link, what writes there, and whether it says that it does not."""


@pytest.mark.parametrize("kind", ["to a file", "to nothing"])
@pytest.mark.parametrize("what", WRITERS)
def test_a_link_carries_nothing_out(what: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write, refuses = WRITERS[what]
    monkeypatch.setattr(
        "os.environ", {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    )
    precious, run_dir = tmp_path / "key", tmp_path / "run"
    (run_dir / "logs").mkdir(parents=True)
    if kind == "to a file":
        precious.write_text("private")
    (run_dir / name).symlink_to(precious)
    try:
        write(run_dir)
        said = ""
    except OSError as error:
        said = str(error)
    except UserError as error:
        said = str(error)
    assert bool(said) is refuses, said
    if refuses:
        assert f"it is a link to {precious}" in said and str(run_dir) in said
    assert (precious.read_text() == "private") if kind == "to a file" else not precious.exists()


def test_a_pipe_holds_up_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / METRICS_FILE)
    with pytest.raises(OSError, match="it is not a file, and nothing is written through it"):
        open_to_append(tmp_path / METRICS_FILE)
    os.mkfifo(tmp_path / "new")
    with create_file(tmp_path / "new") as stream:
        stream.write(b"mine")
    assert (tmp_path / "new").read_text() == "mine"


def test_what_is_appended_comes_behind_what_is_there(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with open_to_append(tmp_path / "log") as stream:
            stream.write(text)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_run_folder_that_is_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    open_run_dir(tmp_path / "run")
    hold(tmp_path / "run")
    sinks(tmp_path / "run")
    assert {METRICS_FILE, LOCK, "requests"} <= {path.name for path in (tmp_path / "scratch").iterdir()}


@needs_two_users
@pytest.mark.parametrize(
    "name", ["checkpoints", "energy", "logs", "mlflow", "profile", "starts", "tensorboard", "wandb"]
)
def test_a_link_of_a_colleague_in_the_place_of_a_folder_is_refused_and_the_owners_is_followed(name: str) -> None:
    with shared_place() as place:
        run_dir = share(place / "run")
        (place / "mine").mkdir()
        assert colleague(f"ln -s {place}/mine {name}", run_dir).returncode == 0
        with pytest.raises(
            UserError, match=rf"run/{name} is a link to {place}/mine, made by user 65534; `rm {run_dir}/{name}`"
        ):
            open_run_dir(run_dir)
        (run_dir / name).unlink()
        (run_dir / name).symlink_to(place / "mine")
        assert open_run_dir(run_dir) == run_dir


@needs_two_users
def test_checkpoints_of_a_colleague_s_making_are_refused_and_those_of_the_run_s_owner_are_not() -> None:
    with shared_place() as place:
        run_dir = share(place / "run")
        assert colleague("mkdir -m 777 checkpoints", run_dir).returncode == 0
        with pytest.raises(UserError, match=rf"run/checkpoints belongs to user {COLLEAGUE}, who may exchange"):
            open_run_dir(run_dir)
        os.chown(run_dir, COLLEAGUE, -1)
        assert open_run_dir(run_dir) == run_dir, "whoever continues a colleague's run trusts him with it"


@needs_two_users
def test_a_colleague_cannot_exchange_the_folders_of_a_run() -> None:
    with shared_place() as place:
        run_dir = share(place / "run")
        (run_dir / "checkpoints").mkdir()
        open_run_dir(run_dir)
        assert "not permitted" in colleague("mv checkpoints gone", run_dir).stderr


@needs_two_users
def test_the_folder_of_requests_opens_no_other_folder_to_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir
    with shared_place() as place:
        run_dir, mine = share(place / "run"), place / "mine"
        mine.mkdir(mode=0o755)

        def exchanged(path: Path) -> None:
            make(path)
            assert colleague(f"mv requests gone; ln -s {mine} requests", run_dir).returncode == 0

        monkeypatch.setattr(Path, "mkdir", exchanged)
        with pytest.raises(NotADirectoryError):
            make_requests_dir(run_dir)
        assert stat.S_IMODE(mine.stat().st_mode) == 0o755


def test_a_link_under_a_name_of_tensorboard_carries_nothing_out(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401  (its import may take longer than the names below last)

    precious, folder = tmp_path / "key", tmp_path / "tensorboard"
    precious.write_text("private")
    folder.mkdir()
    now = int(time.time())
    begin = f"events.out.tfevents.{{:010d}}.{socket.gethostname()}.{os.getpid()}.{{}}"
    for second in range(now, now + 20):
        for number in range(10):
            (folder / begin.format(second, number)).symlink_to(precious)
    run = load_run(ROOT / "configs" / "tiny.yaml", [f"run_dir={tmp_path}", "log.tensorboard=true"])
    with open_sinks(run, WORLD, start_step=0):
        pass
    assert precious.read_text() == "private"
    assert any(not path.is_symlink() for path in folder.iterdir())
