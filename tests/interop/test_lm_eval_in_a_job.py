"""Tasks of lm-eval in the evaluation job of a chain, on a real Slurm of one node: packed, without a network, with the figures of the
command by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.chain.evaluation_watch import noted
from pretrain.log.evaluation_file import TASKS, EvaluationFile, read_evaluations
from tests.interop.test_lm_eval import LM_EVAL, fanal, need_lm_eval, tasks
from tests.slurm.chains import Chain
from tests.slurm.cluster import Cluster, why_no_cluster

__all__ = ["tasks"]

TWO_STEPS = (
    "parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=1", "train.train_steps=2", "checkpoint.interval=1",
)  # fmt: skip
NAMES = "local_choice,local_text,local_text_bos"


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
    submitted = chain.launch("submit", "--nodes", "1", "--hours", "0.5", "--evaluate-every", "2", *asked)
    assert submitted.returncode == 0, submitted.stderr
    chain.until_over()
    assert chain.decisions() == [("finish", "the run is complete")], chain.story()
    (ended,) = (line for line in noted(chain.run_dir / "launch") if line["event"] == "ended")
    assert (ended["step"], ended["exit_code"]) == (2, 0), chain.story()
    assert (
        fanal("evaluate", chain.run_dir, "--tasks", NAMES, "--packed", packed, "--step", 2, "--again").returncode == 0
    )
    by_job, by_hand = read_evaluations(chain.run_dir)
    assert (by_job.kind, by_job.step, by_job.job, by_hand.job) == (TASKS, 2, ended["job"], None)
    assert by_job.question == by_hand.question and by_job.question["packed_sha256"]
    assert by_job.manifest_sha256 == by_hand.manifest_sha256
    assert values(by_job) == values(by_hand) and "local_choice/brier_score" in values(by_job)
    figures = [values(by_job)[f"{name}/bits_per_byte"] for name in ("local_text", "local_text_bos")]
    assert figures[0] != figures[1], "a BOS too many is noticed"
