"""Tasks of lm-eval in the evaluation job of a chain, on a real Slurm of one node: packed, without a network, with the figures of the
command by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.chain.evaluation_watch import noted
from pretrain.log.evaluation_file import PERPLEXITY, TASKS, EvaluationFile, read_evaluations
from tests.interop.test_lm_eval import LM_EVAL, fanal, need_lm_eval, tasks
from tests.slurm.chains import Chain
from tests.slurm.cluster import Cluster, why_no_cluster

__all__ = ["tasks"]

TWO_STEPS = (
    "parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=1", "train.train_steps=2", "checkpoint.interval=1",
)  # fmt: skip
NAMES = "local_choice,local_text"


@pytest.fixture
def one() -> Iterator[Cluster]:
    """A cluster of one node; skipped on a machine without Slurm."""
    need_lm_eval()
    if why := why_no_cluster():
        pytest.skip(why)
    with Cluster(("n1",)) as started:
        yield started


def values(found: EvaluationFile) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in found.figures}


def test_packed_tasks_run_in_the_job_of_an_evaluation_with_the_figures_of_the_command_by_hand(
    one: Cluster, small_run: Path, tasks: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    done = fanal("evaluate", "--pack", NAMES, "--to", packed, "--include-path", tasks)
    assert done.returncode == 0, done.stderr[-2000:]
    chain = Chain(one, small_run, tmp_path / "run", overrides=TWO_STEPS)
    asked = ("--evaluate-tasks", NAMES, "--evaluate-packed", str(packed), "--evaluate-python", str(LM_EVAL.python))
    submitted = chain.launch(
        "submit", "--nodes", "1", "--hours", "0.5", "--evaluate-every", "2", "--evaluate-by", "domain", *asked
    )
    assert submitted.returncode == 0, submitted.stderr
    chain.until_over()
    assert chain.decisions() == [("finish", "the run is complete")], chain.story()
    (ended,) = (line for line in noted(chain.run_dir / "launch") if line["event"] == "ended")
    assert (ended["step"], ended["exit_code"]) == (2, 0), chain.story()
    found = {record.kind: record for record in read_evaluations(chain.run_dir)}
    assert found.keys() == {PERPLEXITY, TASKS} and {record.job for record in found.values()} == {ended["job"]}
    by_job = values(found[TASKS])
    assert {"local_choice/brier_score", "local_text/bits_per_byte"} <= by_job.keys()
    for step in (1, 2):
        words = ("--tasks", NAMES, "--packed", packed, "--step", step, "--again")
        assert fanal("evaluate", chain.run_dir, *words).returncode == 0
        by_hand = read_evaluations(chain.run_dir)[-1]
        assert (by_hand.kind, by_hand.step, by_hand.job) == (TASKS, step, None)
        assert (values(by_hand) == by_job) is (step == 2), "those of another checkpoint are others"
