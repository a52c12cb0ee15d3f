"""train.recompute: whatever is computed again, a run trains the same, bit for bit on one rank, and a fault in it is noticed."""

import dataclasses
from pathlib import Path

import pytest

from pretrain.checkpoint.saving.replicas import ReplicaDriftError
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.runs.cases import DP2, FAMILY_RUNS, OVERLAP, PP2, SP, TP2, VP2

RUN = ("data.document_mask=true", "train.train_steps=4", "model.num_layers=8")
"""Eight layers: two for each of four stages."""
SELECTIVE = "train.recompute=selective"
PARTS = (SELECTIVE, "train.recompute_modules=[core_attn,layernorm,activation]")
FEED_FORWARDS = (SELECTIVE, "train.recompute_modules=[mlp,layernorm]")
CHOICES = {
    "attention": (SELECTIVE,),
    "norms": (SELECTIVE, "train.recompute_modules=[layernorm]"),
    "activations": (SELECTIVE, "train.recompute_modules=[activation]"),
    "all three": PARTS,
    "norms and feed-forwards": FEED_FORWARDS,
    "three layers": ("train.recompute=full", "train.recompute_num_layers=3"),
    "more layers than there are": ("train.recompute=full", "train.recompute_num_layers=9"),
}
FAMILIES = {
    "olmo2": "norms over all heads, and norms behind attention and feed-forward alone",
    "gemma3": "norms before and behind, weights around one",
    "apertus": "an activation that learns",
    "nemotron": "LayerNorm",
}
FULL_1 = ("train.recompute=full", "train.recompute_num_layers=1")
LAYOUTS = {
    "TP2 + SP, parts": (*TP2, *SP, *PARTS),
    "TP2 + SP, feed-forwards": (*TP2, *SP, *FEED_FORWARDS),
    "DP2 with overlap, parts": (*DP2, *OVERLAP, *PARTS),
    "PP2 of 2 virtual stages, parts": (*PP2, *VP2, *PARTS),
    "PP2 of 2 virtual stages, the first layer of each": (*PP2, *VP2, *FULL_1),
}
FAULTS = {
    "recomputed_without_documents": (*TP2, *SP, SELECTIVE),
    "outputs_not_restored": (*TP2, *SP, SELECTIVE, "train.recompute_modules=[activation]"),
    "whole_layers_recomputed_without_documents": (*PP2, *VP2, *FULL_1),
}


@pytest.fixture(scope="session")
def plain(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The run that computes nothing again."""
    return run_and_trace(make_run(small_run, tmp_path_factory.mktemp("plain"), *RUN))


def assert_same_bits(trace: Trace, expected: Trace) -> None:
    assert trace.exit_code == 0, trace.failure
    assert (trace.losses, trace.grad_norms) == (expected.losses, expected.grad_norms)
    assert trace.validation == expected.validation


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_one_rank_trains_the_same_bits_whatever_is_recomputed(
    choice: tuple[str, ...], small_run: Path, tmp_path: Path, plain: Trace
) -> None:
    assert_same_bits(run_and_trace(make_run(small_run, tmp_path, *RUN, *choice)), plain)


@pytest.mark.parametrize("family", FAMILIES, ids=FAMILIES)
def test_each_kind_of_norm_and_activation_trains_the_same_bits(family: str, small_run: Path, tmp_path: Path) -> None:
    overrides = (*FAMILY_RUNS[family].overrides, "train.train_steps=3")
    expected = run_and_trace(make_run(small_run, tmp_path / "plain", *overrides))
    for name, choice in {"parts": PARTS, "feed-forwards": FEED_FORWARDS}.items():
        assert_same_bits(run_and_trace(make_run(small_run, tmp_path / name, *overrides, *choice)), expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_that_recompute_train_what_one_rank_trains(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, plain: Trace
) -> None:
    assert_same_training(run_and_trace(make_run(small_run, tmp_path, *RUN, *layout)), plain)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_what_is_computed_again_breaks_parity(
    fault: str, small_run: Path, tmp_path: Path, plain: Trace
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *RUN, *FAULTS[fault]), fault)
    assert trace.failure is None or isinstance(trace.failure.error, ReplicaDriftError)
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+: .* more than"):
        assert_same_training(dataclasses.replace(trace, exit_code=0), plain)


def test_compiled_operations_are_recomputed_as_they_are(small_run: Path, tmp_path: Path) -> None:
    compiled = ("train.train_steps=3", "train.compile=true")
    expected = run_and_trace(make_run(small_run, tmp_path / "plain", *compiled))
    assert_same_bits(run_and_trace(make_run(small_run, tmp_path / "parts", *compiled, *PARTS)), expected)


def test_bf16_trains_the_same_bits(small_run: Path, tmp_path: Path) -> None:
    narrow = ("train.train_steps=3", "train.precision=bf16")
    expected = run_and_trace(make_run(small_run, tmp_path / "plain", *narrow))
    assert_same_bits(run_and_trace(make_run(small_run, tmp_path / "parts", *narrow, *PARTS)), expected)
