"""Ranks in an image: what srun is told, and that a node's ranks start through it."""

import os
import subprocess
from pathlib import Path

import pytest

from fanal.errors import UserError
from launch.chain.script import files_of, script
from launch.sites.architecture import architecture_warning, check_architecture
from launch.sites.container import step_words
from launch.sites.schema import ContainerConfig
from launch.sites.site import load_site
from tests.unit.launch.test_job_requests import plan

PLACES = (Path("/work"), Path("/code"), Path("/run"))


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (ContainerConfig(runtime="apptainer", options=["--nv"], mounts=["/scratch"]),
         "apptainer exec --nv --bind /work --bind /code --bind /run --bind /scratch --pwd /work i.sif"),
        (ContainerConfig(runtime="singularity"), "singularity exec --bind /work --bind /code --bind /run --pwd /work i.sif"),
        (ContainerConfig(runtime="pyxis", options=["--no-container-mount-home"]),
         "--container-image=i.sif --container-mounts=/work:/work,/code:/code,/run:/run --container-workdir=/work --no-container-mount-home"),
        (ContainerConfig(runtime="edf"), "--environment=i.sif"),
        (None, ""),
    ],
)  # fmt: skip
def test_each_runtime_has_its_words(container: ContainerConfig | None, words: str) -> None:
    assert step_words(container, "i.sif", places=PLACES) == words.split()
    assert step_words(container, "", places=PLACES) == []


def text(site: str, image: str | None, **asked: object) -> list[str]:
    job = plan(
        "smoke_gpu.yaml", site=site, nodes=1, account="xyz", container=image, gpus_per_node=1, hours=0.5, **asked
    )
    return [line.strip() for line in script(job, dict.fromkeys(files_of(job), "0" * 64)).splitlines()]


def test_a_script_runs_its_nodes_in_the_image_and_itself_outside() -> None:
    lines = text("marenostrum5", "/gpfs/projects/images/fanal.sif")
    (step,) = [line for line in lines if line.startswith("srun ")]
    assert step.startswith("srun --kill-on-bad-exit=1 singularity exec --nv --bind /project ")
    assert step.endswith('--pwd /project /gpfs/projects/images/fanal.sif bash "$launch_dir/node.sh" &')
    assert "module load singularity" in lines
    assert any(line.startswith("export FANAL_IMAGE=/gpfs/projects/images/fanal.sif") for line in lines)
    assert any(line.startswith("export FANAL_IMAGE_PYTHON=python3") for line in lines)
    assert not any("FANAL_PACKED" in line for line in lines), "an image is one file already"
    assert any(
        line.startswith("srun --kill-on-bad-exit=1 --environment=fanal bash") for line in text("alps-clariden", "fanal")
    )


def test_a_script_without_an_image_says_nothing_of_one() -> None:
    lines = text("marenostrum5", None)
    assert not any("singularity" in line or "FANAL_IMAGE" in line for line in lines)
    assert any(line.startswith('srun --kill-on-bad-exit=1 bash "$launch_dir/node.sh"') for line in lines)


@pytest.mark.parametrize(
    ("site", "asked", "said"),
    [
        ("generic", {"container": "a.sif"}, r"--container \(a.sif\) must be left out on generic, whose file names no runtime of containers; "),
        ("lumi-g", {"container": "a b"}, r"--container \('a b'\) must be one word; --container /scratch/images/fanal.sif works"),
        ("lumi-g", {"container": "/tmp/a.sif"}, r"--container \(/tmp/a.sif\) lies on /tmp of lumi-g, which every node has for itself"),
        ("lumi-g", {"container": "a.sif", "node_local": True}, r"--node-local must not be given with --container \(a.sif\), .*; --no-node-local works"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_used_is_refused(site: str, asked: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan("smoke_gpu.yaml", site=site, nodes=1, account="xyz", hours=0.5, gpus_per_node=1, **asked)


def test_the_step_of_a_script_reaches_the_ranks_through_the_runtime(tmp_path: Path) -> None:
    """With programs in place of srun, the runtime and Python that note what they are given, and run what follows."""
    tools = tmp_path / "bin"
    tools.mkdir()
    srun = 'shift\nexec env SLURM_NODEID=0 SLURMD_NODENAME=n1 "$@"'
    runtime = f'echo "$@" > {tmp_path}/entered\nwhile [ "$1" != i.sif ]; do shift; done\nshift\nexec "$@"'
    python = f'echo "$@ in $FANAL_IMAGE" > {tmp_path}/ran'
    for name, body in (("srun", srun), ("singularity", runtime), ("python3", python)):
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    (step,) = [line for line in text("marenostrum5", "i.sif") if line.startswith("srun ")]
    node_script = Path(__file__).parents[3] / "launch" / "chain" / "node.sh"
    (tmp_path / "node.sh").write_text(node_script.read_text())
    env = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "launch_dir": str(tmp_path),
        "FANAL_ATTEMPT": str(tmp_path),
        "FANAL_IMAGE": "i.sif",
    }
    env |= {"FANAL_IMAGE_PYTHON": "python3", "PYTHON": "/nowhere/python", "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(["bash", "-c", step.removesuffix(" &")], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "entered").read_text().startswith("exec --nv --bind /project ")
    assert (tmp_path / "ran").read_text() == "-m launch.chain.ranks in i.sif\n"


def test_a_machine_of_another_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    site = load_site("jupiter")
    for here, fits in (("aarch64", True), ("x86_64", False)):
        monkeypatch.setattr("platform.machine", lambda here=here: here)
        assert bool(architecture_warning(site, "jupiter")) is not fits
        if fits:
            check_architecture(site, "jupiter")
        else:
            with pytest.raises(
                UserError,
                match=r"architecture of jupiter \(aarch64\) must be that of its nodes, and this one is x86_64; ",
            ):
                check_architecture(site, "jupiter")
        check_architecture(load_site("generic"), "generic")
