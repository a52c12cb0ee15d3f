"""``launch preflight`` on a login node: what is refused, with which exit code, and that nothing stays behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.exit_codes import DAMAGED
from fanal.run_folder import checkpoints_dir
from launch.preflight import preflight as preflight_module
from launch.preflight.preflight import PreflightRequest
from launch.sites.site import load_site
from pretrain.config.load import load_run
from tests.runs.disks import small_disk
from tests.unit.data.shards import copy_shard

ROOT = Path(__file__).parents[3]
SITE = """
description: a machine for tests
gpus_per_node: 0
cores_per_node: 4
file_systems:
  - {{name: WORK, roots: [{root}], quota_command: echo 3 of 5 files}}
  - {{name: STORE, roots: [{root}/store], on_compute_nodes: false}}
"""


@pytest.fixture
def site(data_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "machine.yaml"
    path.write_text(SITE.format(root=tmp_path))
    return path


def preflight(
    small_run: Path, site: Path, *arguments: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    if path is not None:
        environment["PATH"] = path
    run_dir = f"run_dir={site.parent}/runs/mine"
    command = [sys.executable, "-m", "launch", "preflight", str(small_run), run_dir, *arguments, "--site", str(site)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_a_sound_run_passes_and_leaves_nothing(small_run: Path, site: Path) -> None:
    done = preflight(small_run, site, path="/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    for said in (
        f"site: {site} is code: its modules, environment and quota_command run as you\n",
        "ranks: 1 nodes x 1 = 1 ranks fit the layout (a site without GPUs",
        "paths: none lies where compute nodes cannot reach it",
        "data: 4 shards verified; --deep reads all of them",
        "\npasses: 0.03",
        "/shards/train-code, the most of 2 sources\n",
        "space: 1 more checkpoints of ",
        f"writing: {site.parent} can be written to; {site.parent}/runs/mine will be made",
        "quota: echo is not on this machine",
        "Slurm's commands are missing: sbatch, srun, scontrol, squeue, sinfo, scancel",
        "nodes: not checked: this is not a job",
    ):
        assert said in done.stdout
    assert list(site.parent.iterdir()) == [site]


def test_a_run_that_reads_its_text_too_often_passes_with_a_warning(small_run: Path, site: Path) -> None:
    done = preflight(small_run, site, "train.train_steps=2000", "checkpoint.keep_last=1")
    assert done.returncode == 0
    assert "\nwarning: the run reads " in done.stdout and "train.train_steps=10" in done.stdout


def test_every_check_is_made_though_one_has_failed(small_run: Path, site: Path) -> None:
    done = preflight(
        small_run, site, "parallel.data_parallel_size=2", "--nodes", "3", f"data.tokenizer={site.parent}/none"
    )
    assert done.returncode == 2
    assert "error: --nodes (3) must divide the layout's 2 ranks; --nodes 2 works" in done.stderr
    assert (
        f"error: data.tokenizer ({site.parent}/none) must be a folder, and {site.parent}/none does not exist"
        in done.stderr
    )
    assert "quota: echo 3 of 5 files says\n3 of 5 files\n" in done.stdout
    assert "nodes: not checked: fix the errors above first" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_shard_that_is_not_there_is_a_wrong_name_rather_than_damage(small_run: Path, site: Path) -> None:
    done = preflight(small_run, site, "data.train=[{prefix: nowhere/shard}]")
    assert done.returncode == 2
    said = f"error: data.train[0].prefix (nowhere/shard) must be the prefix of a shard, and nowhere/shard.json does not exist; a path from {ROOT} on works\n"
    assert done.stderr == said


def test_a_damaged_shard_is_exit_code_76(data_folder: Path, small_run: Path, site: Path) -> None:
    for suffix in ("bin", "idx", "json"):
        shutil.copy(data_folder / "shards" / f"train-code.{suffix}", site.parent / f"hurt.{suffix}")
    hurt = f"data.train=[{{prefix: {site.parent}/hurt}}]"
    with (site.parent / "hurt.bin").open("r+b") as stream:
        stream.seek(100)
        stream.write(b"\x01\x02\x03")
    deep = preflight(small_run, site, hurt, "--deep")
    assert deep.returncode == 76
    assert f"error: {site.parent}/hurt.bin block 0 (bytes 0 to " in deep.stderr and "its bytes changed" in deep.stderr
    os.truncate(site.parent / "hurt.bin", 1000)
    quick = preflight(small_run, site, hurt)
    assert quick.returncode == 76
    assert f"{site.parent}/hurt.bin" in quick.stderr


def test_shards_of_another_tokenizer_are_exit_code_76(
    small_run: Path, data_folder: Path, site: Path, tmp_path: Path
) -> None:
    from tests.runs.small import SPEC
    from tokenizer.vocabulary.spec import load_spec
    from tokenizer.vocabulary.train import train_tokenizer

    train_tokenizer(load_spec(SPEC), [data_folder / "corpus" / "validation" / "prose.jsonl"], tmp_path / "other")
    done = preflight(small_run, site, f"data.tokenizer={tmp_path}/other")
    assert done.returncode == 76
    assert "name the tokenizer that made the shard" in done.stderr


def test_a_path_that_compute_nodes_cannot_reach_is_refused(small_run: Path, site: Path) -> None:
    done = preflight(small_run, site, f"run_dir={site.parent}/store/mine")
    assert done.returncode == 2
    assert (
        f"run_dir ({site.parent}/store/mine) lies on STORE of {site}, which compute nodes cannot reach; one of WORK works"
        in done.stderr
    )


def test_a_disk_without_room_is_refused_with_what_fits(small_run: Path, site: Path) -> None:
    folder = site.parent / "disk"
    with small_disk(folder, "size=16m"):
        arguments = (f"run_dir={folder}/mine", "checkpoint.interval=1")
        done = preflight(small_run, site, *arguments)
        assert done.returncode == 2
        assert f"run_dir ({folder}/mine) must have room for 10 more checkpoints of " in done.stderr
        assert "16.8 MB and " in done.stderr and done.stderr.endswith("checkpoint.keep_last=2 fits\n")
        assert preflight(small_run, site, *arguments, "checkpoint.keep_last=2").returncode == 0
        assert not checkpoints_dir(folder / "mine").exists()


def test_a_torch_without_cuda_is_refused_on_a_site_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.preflight.preflight import PreflightRequest, python_environment
    from launch.sites.site import load_site
    from pretrain.config.load import load_run

    asked = PreflightRequest(
        run=load_run(ROOT / "configs" / "tiny.yaml"), site=load_site("generic"), site_name="generic", run_dir=Path("/x"),
        nodes=None, why_nodes="", gpus_per_node=None, deep=False, in_job=False,
    )  # fmt: skip
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    with pytest.raises(
        ValueError, match=r"torch \(2.13.0\+cpu\) must be a build for CUDA on generic; 2.13.0 from PyPI works"
    ):
        python_environment(asked)


def test_without_a_number_of_nodes_it_follows_from_the_layout_or_is_said_to_be_open() -> None:
    from launch.preflight.preflight import number_of_nodes
    from launch.sites.site import load_site
    from pretrain.config.load import load_run

    lucie, generic = ROOT / "configs" / "lucie-7b" / "pretrain.yaml", load_site("generic")
    assert number_of_nodes(load_run(lucie).parallel, generic, None, None) == (64, "parallel.data_parallel_size")
    free = load_run(lucie, ["parallel.data_parallel_size=null"])
    assert number_of_nodes(free.parallel, generic, None, None) == (None, "")
    assert number_of_nodes(free.parallel, generic, 6, None) == (6, "--nodes")


def test_a_number_of_nodes_of_slurm_s_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.preflight.preflight import number_of_nodes
    from launch.sites.site import load_site
    from pretrain.config.load import load_run

    run = load_run(ROOT / "configs" / "tiny.yaml")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    assert number_of_nodes(run.parallel, load_site("local"), None, None) == (3, "this job")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "x")
    with pytest.raises(ValueError, match=r"SLURM_JOB_NUM_NODES \('x'\) must be a number of nodes, .*; --nodes 2 works"):
        number_of_nodes(run.parallel, load_site("local"), None, None)


@pytest.mark.parametrize(
    ("run_dir", "said"),
    [("README.md", "is not a folder"), ("README.md/x", "is not a folder"), (".", "folder of the code")],
)
def test_a_run_folder_that_cannot_be_one_is_refused(small_run: Path, site: Path, run_dir: str, said: str) -> None:
    done = preflight(small_run, site, f"run_dir={run_dir}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: run_dir ({ROOT / run_dir}) must ") and said in done.stderr


def test_shards_of_every_command_that_verifies_some_of_them_count(
    small_run: Path, site: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_module, "SHARDS_AT_ONCE", 1)
    last = copy_shard(data_folder / "shards" / "validation-prose", site.parent / "last")
    for cut in (0, 2):
        with Path(f"{last}.bin").open("r+b") as stream:
            stream.truncate(Path(f"{last}.bin").stat().st_size - cut)
        run = load_run(small_run, [f"data.validation=[{{prefix: {last}}}]"])
        asked = PreflightRequest(
            run=run, site=load_site(str(site)), site_name=str(site), run_dir=site.parent / "run", nodes=1, why_nodes="",
            gpus_per_node=None, deep=False, in_job=False,
        )  # fmt: skip
        found = preflight_module.data(asked)
        assert found == DAMAGED if cut else str(found).startswith("3 shards verified")
