"""What starts the ranks of a machine without a GPU imports no torch, and what they are forked from imports it once, for all."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from fanal.run_folder import checkpoints_dir
from pretrain.checkpoint.disk.retention import checkpoints_in

ROOT = Path(__file__).parents[2]
STARTER = """
import atexit, sys
atexit.register(lambda: print(sorted({"torch", "megatron"} & sys.modules.keys())))
from fanal.__main__ import main
main()
"""
OF_THE_SERVER = """
import sys
from pathlib import Path
from pretrain.parallel.local import run_local_ranks
from tests.dist.test_light_starter import look_at_the_rank
folder = Path(sys.argv[1])
ranks = {"num_ranks": 2, "device_type": "cpu", "log_dir": folder / "logs"}
code, failure = run_local_ranks(look_at_the_rank, str(folder), preload=["pretrain.train.preload"], **ranks)
assert code == 0, failure
"""


def python(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_what_starts_local_ranks_imports_no_torch_from_its_first_moment_to_its_last(
    small_run: Path, tmp_path: Path
) -> None:
    """With a checkpoint of another run to look at, too."""
    short = ("train.train_steps=1", "data.validation=[]", "optim.lr_warmup_samples=0")
    words = ["-c", STARTER, "train", str(small_run), *short]
    first = python(*words, f"run_dir={tmp_path / 'first'}", "parallel.data_parallel_size=1")
    assert (first.returncode, first.stdout.splitlines()[-1]) == (0, "[]"), first.stderr
    origin = checkpoints_in(checkpoints_dir(tmp_path / "first"))[0]
    second = python(*words, f"run_dir={tmp_path / 'second'}", f"checkpoint.init_from={origin}")
    assert (second.returncode, second.stdout.splitlines()[-1]) == (0, "[]"), second.stderr


def look_at_the_rank(folder: str) -> int:
    """One rank, which notes what it was born with."""
    found = {
        "trainer": "pretrain.train.loop" in sys.modules,
        "compiler": "torch._inductor.compile_fx" in sys.modules,
        "threads of the server": len(list(Path(f"/proc/{os.getppid()}/task").iterdir())),
        "no garbage": gc.get_freeze_count() > 100_000 and gc.isenabled(),
    }
    (Path(folder) / os.environ["RANK"]).write_text(json.dumps(found))
    return 0


def test_ranks_are_born_with_the_trainer_from_one_thread_and_do_not_search_it_for_garbage(tmp_path: Path) -> None:
    done = python("-W", "ignore", "-c", OF_THE_SERVER, str(tmp_path))
    assert done.returncode == 0, done.stderr
    for rank in ("0", "1"):
        assert json.loads((tmp_path / rank).read_text()) == {
            "trainer": True, "compiler": False, "threads of the server": 1, "no garbage": True,
        }  # fmt: skip


def test_the_server_ends_without_taking_its_modules_apart_and_a_rank_with_its_own_exit_code() -> None:
    """As Python's end does it: half a second, in which a pipe behind the command stays open."""
    program = (
        "import os, sys, pretrain.train.preload\n"
        "class Late:\n"
        "    def __del__(self, write=os.write): write(1, b'taken apart\\n')\n"
        "sys.late = Late()\n"
        "rank = os.fork()\n"
        "if rank == 0: sys.exit(3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]), flush=True)\n"
        "sys.exit(5)\n"
    )
    done = python("-W", "ignore", "-c", program)
    assert (done.returncode, done.stdout) == (0, "taken apart\n3\n"), done.stderr
