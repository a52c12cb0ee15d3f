"""What a run logs of ranks that share its sequences: rows count once, rates count every rank."""

import json
from pathlib import Path

import pytest

from pretrain.model.flops import flops_per_token
from tests.dist.harness import make_run, run_and_trace


def test_a_token_counts_once_and_its_rate_is_divided_by_all_ranks(small_run: Path, tmp_path: Path) -> None:
    layout = ("parallel.context_parallel_size=2", "parallel.data_parallel_size=2", "train.train_steps=2")
    run = make_run(small_run, tmp_path, *layout, "data.validation=[]", "log.peak_tflops_per_gpu=0.001")
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (start,) = (record for record in records if record["kind"] == "start")
    assert start["headline"].endswith(" on 4 x cpu: TP1 x PP1 x CP2 x DP2") and start["num_ranks"] == 4
    steps = [record for record in records if record["kind"] == "step"]
    a_step = run.train.global_batch_size * run.data.seq_length
    assert [step["consumed_tokens"] for step in steps] == [a_step, 2 * a_step]
    for step in steps:
        assert step["loss_tokens"] == a_step
        assert step["tokens_per_second"] == pytest.approx(a_step / step["step_time_s"], rel=1e-3)
        assert step["tokens_per_second_per_gpu"] == pytest.approx(step["tokens_per_second"] / 4, rel=1e-3)
        flops = flops_per_token(run.model, run.data.seq_length, causal=False)
        assert step["mfu_full"] == pytest.approx(step["tokens_per_second_per_gpu"] * flops / 1e9, rel=1e-3)
