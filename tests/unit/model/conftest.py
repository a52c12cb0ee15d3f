"""What several tests of the model share."""

from collections.abc import Iterator

import pytest
import torch

from pretrain.parallel.world import World, open_lone_world


@pytest.fixture
def world() -> Iterator[World]:
    with open_lone_world():
        yield World(
            rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
            tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
        )  # fmt: skip
