"""A real run beside its plan: what its status makes of its own log."""

from pathlib import Path
from typing import Any

from fanal.run_progress import metrics
from launch.status.status import status
from pretrain.config.load import to_yaml
from tests.dist.harness import make_run, run_and_trace

SITE = "description: a machine\ngpus_per_node: 2\ngpu_memory_gib: 80\ncores_per_node: 4\nmachine: h100\n"


def trained(small_run: Path, folder: Path, fault: str | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The steps of a run of 12 steps on two ranks, two micro batches each, and its plan on a site of GPUs."""
    layout = ("parallel.data_parallel_size=2", "train.train_steps=12", "data.validation=[]")
    run = make_run(small_run, folder, *layout)
    trace = run_and_trace(run, fault)
    assert trace.exit_code == 0, trace.failure
    (folder / "launch").mkdir()
    (folder / "launch" / "config.yaml").write_text(to_yaml(run))
    (folder / "launch" / "site.yaml").write_text(SITE)
    return [record for record in metrics(folder) if record["kind"] == "step"], status(folder)["plan"]


def test_a_rank_that_waits_for_its_data_is_seen_in_the_log_and_in_the_status(small_run: Path, tmp_path: Path) -> None:
    steps, plan = trained(small_run, tmp_path / "late", "data_come_late_on_one_rank")
    assert all(0.06 <= step["data_wait_s"] < step["step_time_s"] for step in steps), "two micro batches, 30 ms each"
    assert plan["num_ranks"] == 2 and plan["is_slower"], "a CPU is not a GPU"
    waits = [part for part in plan["slower_parts"] if part.startswith("a rank waits")]
    assert len(waits) == 1 and waits[0].endswith("of it"), plan["slower_parts"]


def test_a_rank_whose_data_are_there_does_not_wait(small_run: Path, tmp_path: Path) -> None:
    steps, plan = trained(small_run, tmp_path / "run", None)
    assert all(0 <= step["data_wait_s"] < step["step_time_s"] for step in steps)
    assert sorted(step["data_wait_s"] for step in steps)[6] < 0.06
    assert plan["real_step_time_s"] / plan["step_time_s"] == plan["times_as_long"]
