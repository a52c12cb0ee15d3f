"""Whose mistake an error is."""

import pytest

from pretrain.config.derive import num_microbatches
from pretrain.exit_codes import CRASH, WRONG_INPUT, exit_code_of


def test_a_value_error_of_ours_is_the_user_s_mistake() -> None:
    with pytest.raises(ValueError) as caught:
        num_microbatches(global_batch_size=3, micro_batch_size=2, data_parallel_size=1)
    assert exit_code_of(caught.value) == WRONG_INPUT == 2


def test_a_value_error_from_a_library_is_a_crash() -> None:
    import json

    with pytest.raises(ValueError) as caught:
        json.loads("{")
    assert exit_code_of(caught.value) == CRASH == 70


def test_another_error_of_ours_is_a_crash() -> None:
    from pretrain.data.order import permute

    with pytest.raises(AssertionError) as caught:
        permute(3, 3, b"key")
    assert exit_code_of(caught.value) == CRASH
