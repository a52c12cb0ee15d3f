"""Inputs of layers in pinned memory, copied on a side stream of a GPU: a run trains what it trains without. Not yet run on a GPU."""

from pathlib import Path

import pytest

from tests.dist.harness import assert_same_training
from tests.gpu.where import needs_gpus, train_here

pytestmark = needs_gpus(1)

RUN = ("train.recompute=full", "train.train_steps=4", "train.validation_interval=null", "optim.lr_decay_samples=80")
OFFLOAD = "train.offload_activations=true"


def test_a_gpu_with_inputs_on_the_host_trains_what_it_trains_without(small_run: Path, tmp_path: Path) -> None:
    expected = train_here(small_run, tmp_path / "device", *RUN)
    assert_same_training(train_here(small_run, tmp_path / "host", *RUN, OFFLOAD), expected)


def test_inputs_in_the_wrong_order_are_seen(small_run: Path, tmp_path: Path) -> None:
    expected = train_here(small_run, tmp_path / "device", *RUN)
    other = train_here(small_run, tmp_path / "host", *RUN, OFFLOAD, fault="buffers_of_two_layers_are_swapped")
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+: .* more than"):
        assert_same_training(other, expected)
