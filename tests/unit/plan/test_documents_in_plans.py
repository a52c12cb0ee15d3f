"""Attention between documents that masks keep apart is counted by their length, where it is known and the kernel leaves it out."""

import pytest

from fanal.errors import UserError
from launch.planning.place import Place
from launch.planning.plan import make_plan
from pretrain.config.load import load_run
from pretrain.plan.batches import batch_speeds
from pretrain.plan.documents import document_lines
from pretrain.plan.estimate import StepEstimate, estimate_step
from pretrain.plan.machine import load_machine
from pretrain.plan.table import Plan, lines

H100 = load_machine("h100")
MASK = "data.document_mask=true"


def estimate(*overrides: str, tokens: int | None = None) -> StepEstimate:
    run = load_run("configs/1b.yaml", ["data.seq_length=8192", "train.micro_batch_size=2", *overrides])
    return estimate_step(run, H100, 8, document_tokens=tokens)


def test_attention_follows_the_length_of_the_documents_and_nothing_else_does() -> None:
    whole, apart = estimate(MASK), estimate(MASK, tokens=1024)
    assert apart.times.attention == pytest.approx(whole.times.attention / 8)
    assert (apart.times.products, apart.times.memory, apart.stages) == (
        whole.times.products,
        whole.times.memory,
        whole.stages,
    )
    assert estimate(MASK, tokens=100_000).times == whole.times, "no document is longer than a sample"


@pytest.mark.parametrize("overrides", [[], [MASK, "model.attention_backend=sdpa"]], ids=["no mask", "sdpa"])
def test_where_no_kernel_leaves_it_out_the_length_changes_nothing(overrides: list[str]) -> None:
    assert estimate(*overrides, tokens=1024).times == estimate(*overrides).times


def test_a_smaller_batch_has_the_same_documents() -> None:
    one = estimate(MASK, "train.batch_ramp={start: 128, increment: 128, samples: 100000}", tokens=1024)
    assert {speed.global_batch_size: speed.step_s for speed in batch_speeds(one, H100)}[256] == pytest.approx(
        one.step_s
    )


def test_a_windowed_layer_sees_no_more_than_its_window_or_its_document() -> None:
    window = "model.sliding_window=512"
    assert estimate(MASK, window, tokens=512).times == estimate(MASK, tokens=512).times
    assert estimate(MASK, window, tokens=1024).times.attention < estimate(MASK, tokens=1024).times.attention


@pytest.mark.parametrize(
    ("overrides", "tokens", "says"),
    [
        ([], None, None),
        ([], 1024, "changes nothing without masks"),
        ([MASK], None, "--document-tokens 1000 counts it"),
        ([MASK], 1024, "for documents of 1,024 tokens, all alike"),
        ([MASK, "model.attention_backend=sdpa"], 1024, "attention_backend=auto takes a kernel"),
        (["data.packing=best_fit"], None, "the padding of packed rows counts as tokens"),
    ],
)
def test_what_is_assumed_is_said(overrides: list[str], tokens: int | None, says: str | None) -> None:
    said = document_lines(estimate(*overrides, tokens=tokens), H100)
    assert (says is None) == (not said) and (says is None or says in " ".join(said))


def made(tokens: int) -> Plan:
    return make_plan("configs/1b.yaml", ["model.num_layers=4", MASK], Place(gpus=8, gpu="h100"), top=1, rehearsals=0, document_tokens=tokens)  # fmt: skip


def test_the_search_and_the_own_layout_count_it_alike_and_nothing_is_refused_in_its_words() -> None:
    plan = made(512)
    assert plan.own is not None and plan.own.document_tokens == plan.best[0].document_tokens == 512
    assert any("documents of 512 tokens" in line for line in lines(plan))
    assert plan.whole_run is not None and plan.whole_run.batches[0].step_s == plan.best[0].step_s
    with pytest.raises(UserError, match=r"--document-tokens \(0\) must be at least 1; --document-tokens 1000 works"):
        made(0)
