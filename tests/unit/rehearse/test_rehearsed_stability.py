"""The price of a stability report, counted in a rehearsal: one wait and two collectives, whatever the model; off, nothing."""

from collections.abc import Iterable
from typing import Any

import pytest

from tests.unit.rehearse.alone import answer

REHEARSE = """
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
import pretrain.model.figures as figures
import torch
{fault}
steps = []
shared = ["parallel.device=auto", "train.precision=bf16", "train.global_batch_size=8", *{overrides}]
for interval in ("null", "50"):
    run = load_run("configs/tiny.yaml", [*shared, "log.stability_interval=" + interval])
    steps += [rehearse_rank(run, rank=rank, num_ranks=4).step for rank in (0, 2)]
print(json.dumps([dataclasses.asdict(step) for step in steps]))
"""
READS = """
reach = figures.Figures.reach
figures.Figures.reach = lambda self, what, row, value: reach(self, what, row, torch.full_like(value, float(value)))
"""
MICRO_BATCHES = 2
VIRTUAL = ("parallel.virtual_pipeline_model_parallel_size=2", "model.num_layers=8", "train.recompute=full")
LAYOUTS = {
    "the layout of tiny.yaml": (),
    "documents": ("data.document_mask=true",),
    "twice the layers, 2 stages a rank, recomputed": VIRTUAL,
    "loss in chunks": ("train.loss_chunk_tokens=100",),
}


def rehearsed(*overrides: str, fault: str = "") -> list[dict[str, Any]]:
    """The steps of the first and of the last stage without a report, then of both with one."""
    return answer(REHEARSE.format(fault=fault, overrides=list(overrides)))


def counted(rows: Iterable[dict[str, Any]], what: str) -> dict[tuple[str, ...], int]:
    """Counts, of each reason, group and operation, or way; lines of files are left out."""
    found: dict[tuple[str, ...], int] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ("reason", "group", "operation", "way") if name in row)
        found[key] = found.get(key, 0) + row[what]
    return found


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_report_is_one_wait_and_two_collectives_more_and_no_copy(layout: tuple[str, ...]) -> None:
    *without, first, last = rehearsed(*layout)
    for off, on in zip(without, (first, last), strict=True):
        assert counted(on["waits"], "count") == {("a number is read",): 3}
        assert counted(off["waits"], "count") == {("a number is read",): 2}
        assert counted(on["copies"], "count") == counted(off["copies"], "count")
        more = counted(on["traffic"], "calls")
        more["world", "allreduce"] -= 2
        assert more == counted(off["traffic"], "calls")
        assert 1 < on["flops"] / off["flops"] < 1.15, "queries and keys, or logits in chunks, are made once more"


def test_a_figure_that_is_read_when_it_is_taken_is_counted_as_a_wait_of_its_own() -> None:
    *_without, first, _last = rehearsed(fault=READS)
    embedding_and_layers = 1 + 2 * 2  # the first of two stages has two layers, with two maxima each
    assert counted(first["waits"], "count") == {("a number is read",): 3 + MICRO_BATCHES * embedding_and_layers}
