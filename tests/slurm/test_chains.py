"""Chains that something happens to, on a real Slurm: each ends as decided, and trains what an unbroken run trains."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pretrain
from launch.sites.bases import SITES
from launch.status.status import status
from pretrain.report.report import Wanted, write_report
from tests.runs.shared import shared_folder
from tests.slurm.chains import INTERVAL, STEPS, Chain, same, unbroken, until_unbroken
from tests.slurm.cluster import Cluster

REPORTS = "FANAL_SLURM_REPORTS"
"""Environment variable: a folder into which the report of each test's chain is written, by the name of the test."""


@pytest.fixture
def chain(cluster: Cluster, small_run: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chain]:
    """A run; its report is kept if REPORTS says where."""
    one = Chain(cluster, small_run, tmp_path / "run")
    yield one
    if (folder := os.environ.get(REPORTS)) is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_report(Wanted(run_dir=one.run_dir, to=Path(folder) / f"{request.node.name}.html"))


@pytest.fixture(scope="module")
def straight(cluster: Cluster, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The unbroken run: one job of two nodes, for all workers."""
    return unbroken(Chain(cluster, small_run, shared_folder(tmp_path_factory) / "straight" / "run"))


def test_a_run_across_two_nodes_trains(straight: Chain, small_run: Path, tmp_path: Path) -> None:
    until_unbroken(straight)
    assert straight.decisions() == [("finish", "the run is complete")]
    (started,) = straight.records("started")
    assert started["nodes"] == ["n1", "n2"]
    attempt = straight.run_dir / "launch" / f"{started['job']}-0"
    assert json.loads((attempt / "exit-codes.json").read_text()) == {str(rank): 0 for rank in range(4)}
    with tarfile.open(attempt / "logs.tar.gz") as logs:
        names = logs.getnames()
    assert sum(name.endswith("stdout.log") for name in names) == 4, "one log a rank"
    assert any("/n1/" in name for name in names) and any("/n2/" in name for name in names)
    environment = json.loads((attempt / "environment.json").read_text())
    assert environment["nodes"] == ["n1", "n2"] and environment["packages"]["torch"] and environment["code"]["commit"]


def test_the_jobs_train_what_local_ranks_train(straight: Chain, small_run: Path, tmp_path: Path) -> None:
    until_unbroken(straight)
    local = Chain(straight.cluster, small_run, tmp_path / "run")
    keys = json.loads((straight.run_dir / "launch" / "job.json").read_text())
    assert keys["nodes"] * keys["ranks_per_node"] == 4
    subprocess.run(
        [sys.executable, "-m", "pretrain", "train", str(straight.run_dir / "launch/config.yaml"), f"run_dir={local.run_dir}"],
        check=True, timeout=240, capture_output=True,
    )  # fmt: skip
    assert same(local, straight)


def test_the_end_of_a_job_makes_it_save_requeue_and_go_on(chain: Chain, straight: Chain, tmp_path: Path) -> None:
    as_fast_as_a_gpu = tmp_path / "my-site.yaml"
    as_fast_as_a_gpu.write_text((SITES / "local.yaml").read_text() + "machine: h100\n")
    (job,) = chain.submit("--site", str(as_fast_as_a_gpu), "--hours", "0.5")
    chain.until_step(10)
    chain.cluster.scancel("--batch", "--signal=USR1", job)  # as --signal=B:USR1@... does
    chain.until_over()
    (first, second) = chain.decisions()
    assert first[0] == "requeue" and "the end of the job was near" in first[1]
    assert second == ("finish", "the run is complete")
    assert [(r["job"], r["restart"]) for r in chain.records("started")] == [(str(job), 0), (str(job), 1)]
    assert chain.records("started")[1]["step"] >= 10, "it stopped between checkpoints, and saved"
    notices = [record["notice"] for record in chain.records("decided")]
    assert all("planned for h100" in notice for notice in notices), "and the chain went on all the same"
    plan = status(chain.run_dir)["plan"]
    assert plan["num_ranks"] == 4 and plan["is_slower"] and f"{plan['times_as_long']:.2f} times the" in notices[-1]
    assert same(chain, straight)


def test_slurm_itself_announces_the_end_of_a_job(cluster: Cluster, small_run: Path, tmp_path: Path) -> None:
    long = Chain(cluster, small_run, tmp_path / "run", overrides=("train.train_steps=100000",))
    long.submit("--hours", "0.06", "--stop-margin-s", "60")  # four minutes: a start may take one
    long.until(long.decisions, "the first decision")
    action, reason = long.decisions()[0]
    assert action == "requeue" and "the end of the job was near" in reason, long.story()
    long.until(lambda: len(long.records("started")) == 2, "the second start")
    long.until_step(long.records("started")[1]["step"] + 1)
    (long.run_dir / "STOP").touch()
    long.until_over()
    assert long.decisions()[-1] == ("stop", "a STOP file in the run folder asked for it")


def test_a_rank_that_hangs_is_cut_off_and_the_run_restarted_inside(
    cluster: Cluster, small_run: Path, tmp_path: Path, straight: Chain
) -> None:
    # The rank is stopped some steps after a checkpoint, or in the next save where the machine is busy.
    phases = ("step", "save", "validation")
    limits = (*(f"train.watchdog.{phase}_s=15" for phase in phases), "train.watchdog.init_s=120")
    chain = Chain(cluster, small_run, tmp_path / "run", overrides=limits)
    chain.submit()
    chain.until_step(INTERVAL + 3)
    chain.ranks()[1].send_signal(signal.SIGSTOP)
    chain.until_over()
    (first, second) = chain.decisions()
    assert first[0] == "restart" and first[1].startswith("a hang was cut off (exit code 77): watchdog: rank ")
    assert second == ("finish", "the run is complete")
    assert same(chain, straight)


@pytest.mark.parametrize("node", ["n2", "n1"], ids=["another node", "the node of the script"])
def test_a_node_that_is_lost_is_noted_and_the_job_goes_on(node: str, chain: Chain, straight: Chain) -> None:
    (job,) = chain.submit()
    chain.until_step(INTERVAL + 3)
    chain.cluster.kill_node(node)
    chain.until(lambda: "RUNNING" not in chain.cluster.queue().values(), "the job to be put back")
    chain.cluster.start_node(node)
    chain.until_over()
    assert chain.decisions()[0] == ("requeue", f"lost {node}"), chain.story()
    assert chain.decisions()[-1] == ("finish", "the run is complete")
    assert {record["job"] for record in chain.records("started")} == {str(job)}, "no other job took its place"
    assert chain.records("decided")[0]["exclude"] == [node]
    assert same(chain, straight)


def test_a_job_cancelled_by_hand_ends_the_chain_and_a_submission_goes_on(chain: Chain, straight: Chain) -> None:
    first, *_ = chain.submit("--hours", "1.5", "--slice-hours", "0.5")
    chain.until_step(INTERVAL + 3)
    chain.cluster.scancel(first)
    chain.until_over()
    assert [action for action, _ in chain.decisions()] == ["stop"]
    assert "cancelled by hand" in chain.decisions()[0][1]
    chain.submit()
    chain.until_over()
    assert chain.decisions()[-1] == ("finish", "the run is complete")
    assert same(chain, straight)


def test_a_stop_file_ends_the_chain_with_a_checkpoint(chain: Chain, straight: Chain) -> None:
    chain.submit("--hours", "1.5", "--slice-hours", "0.5")
    chain.until_step(10)
    (chain.run_dir / "requests" / "STOP").touch()
    chain.until_over()
    assert chain.decisions() == [("stop", "a STOP file in the run folder asked for it")]
    assert chain.records("decided")[0]["step"] >= 10
    chain.submit()
    chain.until_over()
    assert same(chain, straight)


def test_a_chain_of_three_hands_over_twice(chain: Chain, straight: Chain) -> None:
    jobs = chain.submit("--hours", "1.5", "--slice-hours", "0.5")
    assert len(jobs) == 3
    for number, step in ((0, 8), (1, 20)):
        chain.until_step(step)
        chain.cluster.scancel("--batch", "--signal=USR1", jobs[number])
        chain.until(lambda done=number + 1: len(chain.decisions()) == done, "the decision")
    chain.until_over()
    assert [action for action, _ in chain.decisions()] == ["hand over", "hand over", "finish"]
    assert [int(r["job"]) for r in chain.records("started")] == jobs
    assert same(chain, straight)


def test_a_chain_that_finishes_early_cancels_the_rest(chain: Chain) -> None:
    jobs = chain.submit("--hours", "1.5", "--slice-hours", "0.5")
    chain.until_over()
    assert chain.decisions() == [("finish", "the run is complete")]
    assert [chain.cluster.state(job) for job in jobs] == ["COMPLETED", "CANCELLED", "CANCELLED"]


def test_a_crash_loop_is_stopped_and_a_submission_goes_on(chain: Chain, straight: Chain) -> None:
    chain.submit("--hours", "1.5", "--slice-hours", "0.5")
    for attempt in range(3):
        chain.until(lambda now=attempt: len(chain.decisions()) > now or chain.kill_a_rank(), "a rank to kill")
        chain.until(lambda now=attempt: len(chain.decisions()) > now, "the decision")
    chain.until_over()
    assert [action for action, _ in chain.decisions()] == ["restart", "requeue", "stop"], chain.story()
    assert chain.decisions()[-1][1].startswith("3 restarts in a row without a new checkpoint (the newest is of step 0)")
    chain.submit()
    chain.until_over()
    assert same(chain, straight)


@pytest.mark.parametrize("preflight", [True, False], ids=["before the ranks", "by the ranks"])
def test_a_wrong_config_stops_the_chain_at_once(preflight: bool, chain: Chain) -> None:
    wrong = Chain(chain.cluster, chain.config, chain.run_dir, overrides=("data.train=[{prefix: nowhere/shard}]",))
    jobs = wrong.submit("--hours", "1.5", "--slice-hours", "0.5", "--preflight" if preflight else "--no-preflight")
    wrong.until_over()
    ((action, reason),) = wrong.decisions()
    assert action == "stop" and reason.startswith("the input is wrong (exit code 2): ")
    assert "nowhere/shard" in (wrong.story() if preflight else reason)
    assert [wrong.cluster.state(job) for job in jobs] == ["FAILED", "CANCELLED", "CANCELLED"]


def test_code_and_packages_run_from_each_node_s_own_disk(chain: Chain, straight: Chain) -> None:
    (job,) = chain.submit("--hours", "0.5", "--node-local")
    chain.until_step(1)
    places = {str(node): process.environ()["PYTHONPATH"] for node, process in chain.ranks().items()}
    folders = {Path(place.split(":")[0]).parent for place in places.values()}
    assert sorted(folder.name.partition(".")[0] for folder in folders) == [f"fanal-{job}-{node}" for node in (0, 1)]
    assert {(folder.parent, folder.stat().st_mode & 0o777) for folder in folders} == {(Path("/tmp"), 0o700)}
    installed = (
        str(Path(sys.executable).parents[1].resolve()),
        sysconfig.get_path("stdlib"),
        str(Path(pretrain.__file__).parent),
    )
    for process in chain.ranks().values():
        libraries = [library.path for library in process.memory_maps() if library.path.startswith("/")]
        assert any("/libtorch_cpu.so" in path for path in libraries)
        assert not [path for path in libraries if path.startswith(installed)], (
            "all but the interpreter lies on the node's disk"
        )
    chain.until_over()
    assert not list(Path("/tmp").glob(f"fanal-{job}-*"))
    assert same(chain, straight)


def test_a_second_submission_of_a_run_in_the_queue_is_refused_and_a_rendering_warns(chain: Chain) -> None:
    first, second = chain.submit("--hours", "1", "--slice-hours", "0.5")
    refused = chain.launch("submit", "--nodes", "2", "--hours", "1")
    assert refused.returncode == 2
    assert f"has jobs in the queue ({first}, {second}); `scancel {first} {second}` ends them" in refused.stderr
    assert "Traceback" not in refused.stderr
    chain.until(lambda: chain.cluster.queue().get(first) == "RUNNING", "the first job's start")
    rendered = chain.launch("render", "--nodes", "2", "--hours", "1")
    assert rendered.returncode == 0
    assert f"jobs in the queue ({first}, {second}) start only what they were submitted with" in rendered.stderr


def test_a_job_whose_files_were_changed_while_it_waited_runs_nothing_of_them(chain: Chain, tmp_path: Path) -> None:
    assert chain.launch("render", "--nodes", "2", "--hours", "0.5").returncode == 0
    launch = chain.run_dir / "launch"
    job = chain.cluster.sbatch(launch / "job.sbatch", "--hold")
    for name in ("node.sh", "job.sbatch"):  # Slurm has its own copy of the second
        (launch / name).write_text(f"#!/bin/bash\ntouch {tmp_path}/ran\n")
    chain.cluster.scontrol("release", job)
    chain.until_over()
    assert chain.cluster.state(job) == "FAILED" and not (tmp_path / "ran").exists() and not chain.records("started")
    assert f"error: {launch}/node.sh is not the file that was submitted" in (launch / f"{job}.out").read_text()


def test_slurm_takes_every_rendered_script_of_this_site(chain: Chain) -> None:
    done = chain.launch("render", "--nodes", "2", "--hours", "1")
    assert done.returncode == 0, done.stderr
    script = chain.run_dir / "launch" / "job.sbatch"
    tested = subprocess.run(
        ["sbatch", "--test-only", str(script)], env=chain.cluster.env, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stderr
    assert not chain.cluster.queue()
    assert STEPS > INTERVAL
