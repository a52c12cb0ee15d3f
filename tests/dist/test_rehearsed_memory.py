"""The peak that a rehearsal counts is the one that real ranks have on a CPU, within 10 %."""

from pathlib import Path

import pytest

from bench import rehearsed_ranks
from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.rehearse.rehearse import in_processes
from tests.dist.measured_ranks import measured
from tests.unit.rehearse.alone import ROOT

TINY = ROOT / "configs" / "tiny.yaml"
LARGER = (
    "model.num_layers=8", "model.hidden_size=512", "model.ffn_hidden_size=1536", "model.num_attention_heads=8", "model.vocab_size=8000",
    "train.micro_batch_size=2", "train.global_batch_size=4",
)  # fmt: skip
"""Large enough that what libraries keep, 16 to 30 MiB, is small beside it."""
ONE_RANK = (
    "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1", "parallel.sequence_parallel=false",
)  # fmt: skip
WITHIN = 0.1


@pytest.mark.parametrize(
    "overrides",
    [
        (*LARGER, *ONE_RANK),
        (*LARGER, *ONE_RANK, "train.precision=bf16"),
        (
            *LARGER,
            "train.micro_batch_size=4",
            "train.global_batch_size=8",
            "model.num_layers=28",
        ),
        (
            *LARGER,
            "parallel.tensor_model_parallel_size=1",
            "parallel.sequence_parallel=false",
            "train.micro_batch_size=4",
            "train.global_batch_size=8",
            "model.num_layers=14",
            "parallel.pipeline_layers=[5,9]",
        ),
        (*LARGER, *ONE_RANK, "train.recompute=selective", "train.recompute_modules=[core_attn,layernorm,activation]"),
        (*LARGER, *ONE_RANK, "train.recompute=full", "train.recompute_num_layers=4"),
    ],
    ids=[
        "one rank in fp32",
        "one rank in bf16",
        "tensor 2 x pipeline 2",
        "pipeline 2 with unequal stages",
        "parts recomputed",
        "four layers recomputed",
    ],
)
def test_the_counted_peak_is_the_measured_one(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    run = load_run(TINY, overrides)
    ranks = range(world_size(run.parallel))
    found = measured(tmp_path, TINY, *overrides)
    counted = [one.peak_bytes for one in in_processes(run, ranks=ranks, num_ranks=len(ranks))]
    errors = [counting / measuring - 1 for counting, measuring in zip(counted, found, strict=True)]
    print([f"counted {counting:,}, measured {measuring:,}" for counting, measuring in zip(counted, found, strict=True)])
    assert all(abs(error) <= WITHIN for error in errors), f"{errors}: counted {counted}, measured {found}"


def test_the_counted_peak_of_ranks_that_share_sequences_is_the_measured_one(tmp_path: Path) -> None:
    """``python -m bench.rehearsed_ranks`` compares more layouts."""
    pairs = rehearsed_ranks.compared(tmp_path, "context 2")
    found = rehearsed_ranks.errors(pairs)
    assert all(abs(error) <= WITHIN for error in found), f"{found}: counted and measured {pairs}"
