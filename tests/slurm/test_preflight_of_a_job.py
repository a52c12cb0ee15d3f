"""A job on a real Slurm looks at its nodes before it trains."""

import json
from pathlib import Path

from tests.slurm.chains import Chain
from tests.slurm.cluster import Cluster


def test_a_job_measures_its_nodes_and_then_trains(cluster: Cluster, small_run: Path, tmp_path: Path) -> None:
    chain = Chain(cluster, small_run, tmp_path / "run", overrides=("train.train_steps=2",))
    (job,) = chain.submit("--hours", "0.5", "--preflight")
    chain.until_over()
    assert chain.decisions() == [("finish", "the run is complete")], chain.story()
    found = json.loads((chain.run_dir / "launch" / f"{job}-0" / "preflight.json").read_text())
    assert [(node["node"], node["stage"]) for node in found["nodes"]] == [("n1", "done"), ("n2", "done")]
    assert all(node["exchange_gb_per_s"] and node["all_reduce_gb_per_s"] for node in found["nodes"])
    assert (found["broken"], found["stuck"], found["job"]) == ([], "", str(job))
    assert "all-reduce over 2 nodes: " in chain.story()
