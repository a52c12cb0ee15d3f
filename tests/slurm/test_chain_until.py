"""Chains that end at a step or a loss, on a real Slurm: with a checkpoint, a line that says why, and no job left."""

import subprocess
import sys
from pathlib import Path

from tests.slurm.chains import INTERVAL, Chain
from tests.slurm.cluster import Cluster

LONG = 1000
"""Steps of the run: far more than it takes here until somebody looks at its loss."""
ONE_RANK = ("parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=1")
SLICES = ("--nodes", "1", "--hours", "1.5", "--slice-hours", "0.5")


def test_a_chain_ends_with_the_checkpoint_of_its_step_and_the_next_one_at_a_loss(
    cluster: Cluster, small_run: Path, tmp_path: Path
) -> None:
    chain = Chain(cluster, small_run, tmp_path / "run", overrides=(*ONE_RANK, f"train.train_steps={LONG}"))
    step = INTERVAL + 3
    done = chain.launch("submit", *SLICES, "--until-step", str(step))
    assert done.returncode == 0, done.stderr
    chain.until_over()
    why = f"--until-step {step} is reached: the newest checkpoint is of step {step}"
    assert chain.decisions() == [("finish", why)], chain.story()
    states = [cluster.state(int(job)) for job in chain.records("submitted")[-1]["jobs"]]
    assert states == ["COMPLETED", "CANCELLED", "CANCELLED"]
    assert max(chain.losses()) == step

    again = chain.launch("submit", *SLICES, "--until-step", str(step))
    assert (
        again.returncode == 2
        and f"--until-step ({step}) must be above the step of the newest checkpoint" in again.stderr
    )
    job = cluster.sbatch(chain.run_dir / "launch" / "job.sbatch")  # the condition of the last submission still holds
    cluster.wait_for(job, "COMPLETED", 120)
    assert chain.decisions() == [("finish", why), ("finish", why)] and len(chain.records("started")) == 1

    losses = {at: sum(found.values()) / len(found) for at, found in chain.validation().items()}
    limit = losses[max(losses)] * 0.999
    loss = chain.launch("submit", *SLICES)
    assert loss.returncode == 0, loss.stderr
    command = [sys.executable, "-m", "launch", "chain", str(chain.run_dir), "--until-loss", f"{limit:.6f}"]
    said = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0 and "until validation loss" in said.stdout, said.stderr
    chain.until_over()
    action, reason = chain.decisions()[-1]
    assert action == "finish" and reason.startswith(
        f"--until-loss {limit:g} is reached: the validation loss of step "
    ), chain.story()
    assert step < chain.records("decided")[-1]["step"] < LONG
