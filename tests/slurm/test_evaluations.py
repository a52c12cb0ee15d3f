"""Evaluations beside a chain, on a real Slurm: a job each, while the run trains on; their figures are those of a command by hand."""

import os
import subprocess
import sys
from pathlib import Path

from launch.chain.evaluation_watch import noted
from pretrain.log.evaluation_file import EvaluationFile, read_evaluations
from tests.slurm.chains import INTERVAL, STEPS, Chain
from tests.slurm.cluster import Cluster

LONGER = 5 * STEPS
EVERY = 5 * INTERVAL


def figures(found: EvaluationFile) -> list[tuple[str, float | None]]:
    return [(figure.name, figure.value) for figure in found.figures]


def test_checkpoints_are_evaluated_in_jobs_of_their_own_while_the_run_trains_on(
    cluster: Cluster, small_run: Path, tmp_path: Path
) -> None:
    chain = Chain(cluster, small_run, tmp_path / "run", overrides=(f"train.train_steps={LONGER}",))
    chain.submit("--hours", "0.5", "--evaluate-every", str(EVERY // INTERVAL), "--evaluate-by", "domain")
    chain.until(lambda: read_evaluations(chain.run_dir), "the first evaluation")
    while_training = not chain.decisions()
    chain.until_over()
    assert while_training, "the chain had not ended yet"
    assert chain.decisions() == [("finish", "the run is complete")]
    lines = noted(chain.run_dir / "launch")
    queued = [line["step"] for line in lines if line["event"] == "queued"]
    assert queued == list(range(EVERY, LONGER + 1, EVERY)), chain.story()
    assert {line["exit_code"] for line in lines if line["event"] == "ended"} == {0}, chain.story()
    by_job = {found.step: found for found in read_evaluations(chain.run_dir)}
    assert sorted(by_job) == queued and all(found.job for found in by_job.values())
    subprocess.run(
        [sys.executable, "-m", "fanal", "evaluate", chain.run_dir, "--perplexity", "--by", "domain", "--step", str(EVERY), "--again"],
        check=True, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    by_hand = read_evaluations(chain.run_dir)[-1]
    assert by_hand.job is None and figures(by_hand) == figures(by_job[EVERY]) != figures(by_job[2 * EVERY])


def test_an_evaluation_that_fails_is_noted_and_the_chain_goes_on_and_bad_nodes_are_left_out_of_it(
    cluster: Cluster, small_run: Path, tmp_path: Path
) -> None:
    chain = Chain(cluster, small_run, tmp_path / "run")
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\nexit 70\n")
    fails.chmod(0o755)
    cluster.nodes_file.write_text("n1 | | by hand\n")  # which the chain cannot do without
    chain.submit("--hours", "0.5", "--evaluate-every", "1", "--evaluate-by", "domain", "--evaluate-python", str(fails))
    chain.until_over()
    assert chain.decisions() == [("finish", "the run is complete")] and max(chain.losses()) == STEPS
    ended = [line for line in noted(chain.run_dir / "launch") if line["event"] == "ended"]
    assert ended and {(line["exit_code"], line["reason"]) for line in ended} == {(70, "it failed with exit code 70")}
    assert not read_evaluations(chain.run_dir)
    jobs = [cluster.job(int(line["job"])) for line in ended]
    assert {(job["ExcNodeList"], job["NodeList"]) for job in jobs} == {("n1", "n2")}, chain.story()
