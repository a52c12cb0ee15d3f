"""The scripts of jobs: as they were, and good shell."""

import shutil
import subprocess
from pathlib import Path

import pytest

from launch.script import log_path
from pretrain.parallel.environment import EXIT_CODES
from pretrain.train.request_files import SINCE_S
from tests.golden.launch_scripts import FOLDER, cases, golden_job, golden_text

NODE_SCRIPT = Path(__file__).parents[3] / "launch" / "node.sh"
CASES = cases()
IDS = [path.stem for path in CASES]


@pytest.mark.parametrize("path", CASES, ids=IDS)
def test_the_script_of_a_shipped_config_is_its_golden_file(path: Path) -> None:
    message = "if the change is meant: python -m tests.golden.regenerate, and read the difference"
    assert golden_text(*CASES[path]) == path.read_text(), message


def test_no_golden_script_is_left_of_a_case_that_is_gone() -> None:
    assert set(FOLDER.iterdir()) == set(CASES)


@pytest.mark.parametrize("path", [*CASES, NODE_SCRIPT], ids=[*IDS, "node.sh"])
def test_bash_reads_it(path: Path) -> None:
    read = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed; make test-slurm installs it"
)
def test_shellcheck_finds_nothing() -> None:
    found = subprocess.run(["shellcheck", *map(str, CASES), str(NODE_SCRIPT)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[:3000]


def test_the_script_names_the_variables_that_ranks_read() -> None:
    text = golden_text(*next(iter(CASES.values())))
    assert f"export {EXIT_CODES}=" in text and f"export {SINCE_S}  #" in text


def test_every_slice_is_the_same_script_and_waits_for_the_others_by_name() -> None:
    path = next(path for path in CASES if path.stem == "jean-zay-h100-lucie-7b-pretrain")
    job = golden_job(*CASES[path])
    assert (job.slices, job.minutes) == (3, 1000)
    text = path.read_text()
    assert f"#SBATCH --job-name={job.name}" in text
    assert "#SBATCH --dependency=singleton" in text
    assert "#SBATCH --time=16:40:00" in text


def test_the_output_of_a_job_may_lie_below_a_name_with_spaces() -> None:
    assert log_path(Path("/runs/mine"), "%j.out") == "/runs/mine/%j.out"
    assert log_path(Path('/runs/a "b" #1 %j'), "%j.out") == r'"/runs/a \"b\" #1 %%j/%j.out"'
