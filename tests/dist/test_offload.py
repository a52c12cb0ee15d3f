"""train.offload_activations: a run trains the same bits with its layers' inputs on the host, and a fault in their copies is noticed."""

import dataclasses
from pathlib import Path

import pytest

from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.runs.cases import PP2, SP, TP2, VP2
from tests.runs.context_cases import CP2

RUN = ("data.document_mask=true", "train.train_steps=3", "model.num_layers=8", "train.recompute=full")
"""Eight layers: two for each of four model chunks."""
OFFLOAD = "train.offload_activations=true"
PARTIAL = "train.recompute_num_layers=1"
LAYOUTS = {
    "TP2 + SP": (*TP2, *SP),
    "PP2": PP2,
    "PP2 of 2 virtual stages": (*PP2, *VP2),
    "CP2": CP2,
}
FAULTS = {
    "fetches_are_not_waited_for": (),
    "memory_is_reused_before_it_is_copied": (),
    "buffers_of_two_layers_are_swapped": PP2,
}


def assert_same_bits(trace: Trace, expected: Trace) -> None:
    assert trace.exit_code == 0, trace.failure
    assert (trace.losses, trace.grad_norms) == (expected.losses, expected.grad_norms)
    assert trace.validation == expected.validation


@pytest.fixture(scope="module")
def on_the_device(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The run of one rank that holds the inputs itself."""
    return run_and_trace(make_run(small_run, tmp_path_factory.mktemp("plain"), *RUN))


@pytest.mark.parametrize("fault", [None, "copies_are_late"])
@pytest.mark.parametrize("choice", [(), ("train.recompute_num_layers=3",)], ids=["all layers", "three layers"])
def test_one_rank_trains_the_same_bits(
    choice: tuple[str, ...], fault: str | None, small_run: Path, tmp_path: Path, on_the_device: Trace
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *RUN, OFFLOAD, *choice), fault)
    assert_same_bits(trace, on_the_device)


def test_bf16_trains_the_same_bits(small_run: Path, tmp_path: Path) -> None:
    narrow = (*RUN, "train.precision=bf16")
    expected = run_and_trace(make_run(small_run, tmp_path / "plain", *narrow))
    assert_same_bits(run_and_trace(make_run(small_run, tmp_path / "host", *narrow, OFFLOAD)), expected)


def test_reports_of_stability_say_the_same(small_run: Path, tmp_path: Path) -> None:
    reported = (*RUN, "log.stability_interval=1")
    expected = run_and_trace(make_run(small_run, tmp_path / "plain", *reported))
    trace = run_and_trace(make_run(small_run, tmp_path / "host", *reported, OFFLOAD), "copies_are_late")
    assert_same_bits(trace, expected)
    assert trace.stability == expected.stability and len(trace.stability) == 3


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_trains_its_own_bits_and_what_one_rank_trains(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, on_the_device: Trace
) -> None:
    expected = run_and_trace(make_run(small_run, tmp_path / "device", *RUN, *layout))
    trace = run_and_trace(make_run(small_run, tmp_path / "host", *RUN, *layout, OFFLOAD), "copies_are_late")
    assert_same_bits(trace, expected)
    assert_same_training(trace, on_the_device)


def test_one_layer_of_each_virtual_stage_trains_the_same_bits(
    small_run: Path, tmp_path: Path, on_the_device: Trace
) -> None:
    layout = (*PP2, *VP2, PARTIAL, OFFLOAD)
    trace = run_and_trace(make_run(small_run, tmp_path, *RUN, *layout), "copies_are_late")
    assert_same_training(trace, on_the_device)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_copies_breaks_parity(fault: str, small_run: Path, tmp_path: Path, on_the_device: Trace) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *RUN, *FAULTS[fault], OFFLOAD), fault)
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+"):
        assert_same_training(dataclasses.replace(trace, exit_code=0), on_the_device)
