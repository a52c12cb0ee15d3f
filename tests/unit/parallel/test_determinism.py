"""The switch for the same bits each time: on inside, as before outside, and torch then refuses what it cannot promise."""

import pytest
import torch

from pretrain.parallel.determinism import deterministic


def test_torch_computes_the_same_bits_inside_and_as_before_outside() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            torch.zeros(4).put_(torch.tensor([1, 1]), torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_ends_with_an_error_too() -> None:
    with pytest.raises(KeyError), deterministic(True):
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()


def test_nothing_changes_for_a_run_that_did_not_ask() -> None:
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
