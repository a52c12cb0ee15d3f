"""The scripts of jobs: as they were, and good shell."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.run_folder import REQUESTS_SINCE_S
from launch.chain.script import files_of, log_path, script
from launch.sites.site import known_sites
from pretrain.parallel.environment import EXIT_CODES
from tests.golden.launch_scripts import (
    CONFIGS,
    CONFIGS_OF_SITES,
    FOLDER,
    GOLDEN_CONFIG,
    GOLDEN_SITE,
    PLACES,
    SPARED_SITES,
    cases,
    golden_file,
    golden_job,
    golden_text,
    write_all,
)

NODE_SCRIPT = Path(__file__).parents[3] / "launch" / "chain" / "node.sh"
CASES = cases()
IDS = [path.stem for path in CASES]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of every config on every site, of chains with spare nodes and evaluations there, and the one that each node runs."""
    return [*write_all(tmp_path_factory.mktemp("scripts")), NODE_SCRIPT]


@pytest.mark.parametrize("path", CASES, ids=IDS)
def test_the_script_of_a_shipped_config_is_its_golden_file(path: Path) -> None:
    message = "if the change is meant: python -m tests.golden.regenerate, and read the difference"
    assert golden_file(path) == path.read_text(), message


def test_no_golden_script_is_left_of_a_case_that_is_gone() -> None:
    assert set(FOLDER.iterdir()) == set(CASES)


def test_a_golden_script_is_there_for_every_site_and_for_every_config() -> None:
    scripts = [script for of_file in CASES.values() for script in of_file]
    assert {site for _, site in scripts} == set(known_sites())
    assert {config for config, _ in scripts} == set(CONFIGS)
    assert len(scripts) == len(set(scripts)) == len(CONFIGS) + len(CONFIGS_OF_SITES) * (len(known_sites()) - 1)


def test_bash_reads_every_script(scripts: list[Path]) -> None:
    for path in scripts:
        read = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        assert read.returncode == 0, f"{path.name}: {read.stderr}"


def test_scripts_of_spare_nodes_and_evaluations_are_among_those_that_are_read(scripts: list[Path]) -> None:
    texts = {path.name: path.read_text() for path in scripts}
    for site in SPARED_SITES:
        assert "launch job choose" in texts[f"{site}-spare.sbatch"]
        assert "launch evaluations watch" in texts[f"{site}-spare.sbatch"]
        assert "--tasks arc_easy,hellaswag" in texts[f"{site}-evaluate.sbatch"]


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed; make test-slurm installs it"
)
def test_shellcheck_finds_nothing(scripts: list[Path]) -> None:
    found = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[:3000]


def test_a_script_says_the_layers_of_unequal_stages() -> None:
    job = golden_job(GOLDEN_CONFIG, GOLDEN_SITE)
    unequal = replace(job.run.parallel, pipeline_layers=[7, 9, 9, 7])
    for parallel, said in ((job.run.parallel, "x PP4 x DP32"), (unequal, "x PP4 (layers 7 + 2 x 9 + 7) x DP32")):
        changed = replace(job, run=replace(job.run, parallel=parallel))
        assert said in script(changed, dict.fromkeys(files_of(changed), "0" * 64))


def test_the_script_names_the_variables_that_ranks_read() -> None:
    text = golden_text(GOLDEN_CONFIG, GOLDEN_SITE)
    assert f"export {EXIT_CODES}=" in text and f"export {REQUESTS_SINCE_S}  #" in text


@pytest.mark.parametrize(
    ("python", "restarts", "requeued", "code"),
    [
        (None, 0, True, 127), (None, 3, False, 127), ("exit 1", 2, True, 1), ("exit 2", 0, False, 2), ("exit 70", 0, False, 70),
        ("exit 0", 0, False, 0),
    ],
)  # fmt: skip
def test_a_node_whose_python_does_not_run_gives_the_job_back_a_few_times(
    python: str | None, restarts: int, requeued: bool, code: int, tmp_path: Path
) -> None:
    """A code of ours means that ``launch job`` has decided and acted itself."""
    tools = tmp_path / "bin"
    tools.mkdir()
    commands = {"scontrol": f'echo "$@" >> {tmp_path}/asked', **({"python": python} if python else {})}
    for name, text in commands.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    job = golden_job(next(path for path in CONFIGS if path.stem == "tiny"), "local")
    text = script(job, {}).replace(str(PLACES.python), f"{tools}/python").replace("/project", str(tmp_path))
    (tmp_path / "job.sbatch").write_text(text)
    (tmp_path / job.folder.relative_to("/project")).mkdir(parents=True)
    env = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(["bash", str(tmp_path / "job.sbatch")], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if requeued else "")


def test_every_slice_is_the_same_script_and_waits_for_the_others_by_name() -> None:
    path = next(path for path in CASES if path.stem == "jean-zay-h100-lucie-7b-pretrain")
    job = golden_job(*CASES[path][0])
    assert (job.slices, job.minutes) == (3, 1000)
    text = path.read_text()
    assert f"#SBATCH --job-name={job.name}" in text
    assert "#SBATCH --dependency=singleton" in text
    assert "#SBATCH --time=16:40:00" in text


def test_the_output_of_a_job_may_lie_below_a_name_with_spaces() -> None:
    assert log_path(Path("/runs/mine"), "%j.out") == "/runs/mine/%j.out"
    assert log_path(Path('/runs/a "b" #1 %j'), "%j.out") == r'"/runs/a \"b\" #1 %%j/%j.out"'
