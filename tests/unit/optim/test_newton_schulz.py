"""Newton-Schulz gives the singular vectors, with singular values that its polynomial gives, and costs what is stated."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.optim.matrices import Matrix
from pretrain.optim.newton_schulz import orthogonalize

SHAPES = [(24, 24), (12, 40), (40, 12), (1, 9), (9, 1)]


def drawn(shape: tuple[int, int], seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_singular_values(matrix: torch.Tensor, num_steps: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(num_steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ values.diag() @ right


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_go_through_the_polynomial_and_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = drawn(shape)
    found = orthogonalize(matrix, num_steps=5)
    assert found.shape == matrix.shape and found.dtype == matrix.dtype
    assert distance(found, by_singular_values(matrix, 5)) < 1e-5
    assert distance(found, by_singular_values(matrix, 4)) > 1e-2, "a step more or less would be noticed"


def test_singular_values_of_a_gaussian_matrix_come_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalize(drawn((64, 128)), num_steps=5))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


@pytest.mark.parametrize("size", [1e-15, 1e-9, 1.0, 1e15])
def test_the_size_of_the_gradients_does_not_matter(size: float) -> None:
    matrix = drawn((12, 40))
    assert distance(orthogonalize(matrix * size, num_steps=5), by_singular_values(matrix, 5)) < 1e-5


def test_zeros_stay_zeros() -> None:
    assert not orthogonalize(torch.zeros(3, 5), num_steps=5).any()


def test_bfloat16_stays_bfloat16_and_near() -> None:
    found = orthogonalize(drawn((32, 48)).bfloat16(), num_steps=5)
    assert found.dtype is torch.bfloat16
    assert distance(found, by_singular_values(drawn((32, 48)), 5)) < 0.05


def test_a_difference_grows_by_the_slope_at_zero_at_most() -> None:
    matrix = torch.zeros(16, 16, dtype=torch.float64)
    matrix[0, 0] = 1.0  # all other singular values are 0, where the slope is greatest
    change = drawn((16, 16)).double() * 1e-9
    grown = (orthogonalize(matrix + change, num_steps=5) - orthogonalize(matrix, num_steps=5)).norm() / change.norm()
    assert 300 < float(grown) <= 3.4445**5


@pytest.mark.parametrize("shape", [(24, 24), (12, 40), (40, 12)], ids=str)
def test_the_stated_operations_are_those_that_are_done(shape: tuple[int, int]) -> None:
    stated = Matrix(name="", tensor="", shape=shape, split_dim=None, blocks=(range(shape[0]),)).flops(5)
    with FlopCounterMode(display=False) as counter:
        orthogonalize(drawn(shape), num_steps=5)
    assert counter.get_total_flops() == stated
