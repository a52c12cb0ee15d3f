"""The rotary embedding that trains, by itself and with the split of a fused projection, against its definition.

Shapes: s sequence, b micro batch, n query heads, g query groups, r = n / g, d head size, c turned channels.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.rotary import rotary, rotary_qkv, rotary_table

BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float64: 1e-12}
THETA = 100.0


def table(seq_length: int, channels: int) -> Tensor:
    return rotary_table(reference.rotary_angles(seq_length, reference.rotary_frequencies(channels, THETA)))


def run(operation: Callable[[Tensor], Tensor | tuple[Tensor, ...]], x: Tensor) -> list[Tensor]:
    """The outputs, then the gradient of x."""
    leaf = x.clone().requires_grad_()
    outputs = operation(leaf)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    generator = torch.Generator().manual_seed(2)
    upstream = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outputs]
    torch.autograd.backward(outputs, upstream)
    assert leaf.grad is not None
    return [*(output.detach() for output in outputs), leaf.grad]


def close(results: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> list[bool]:
    return [
        bool((one.double() - other.double()).abs().max() <= BOUND[dtype] * other.double().abs().max())
        for one, other in zip(results, expected, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(33, 3, 4, 16), (1, 1, 1, 2), (64, 1, 2, 64)])
def test_turned_heads_and_their_gradients_are_the_definitions(
    size: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = run(lambda x: rotary(x, table(size[0], size[3])), x)
    expected = run(lambda x: reference.rotary_embedding(x, THETA), x.double())
    assert found[0].dtype == found[1].dtype == dtype and all(close(found, expected, dtype))
    if size[0] > 1:  # planted fault: the other way round
        wrong = run(lambda x: rotary(x, table(size[0], size[3]) * torch.tensor([1.0, -1.0])[:, None, None]), x)
        assert not any(close(wrong, expected, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [16, 8, 2])
@pytest.mark.parametrize(("batch", "groups", "heads"), [(3, 2, 2), (1, 1, 4), (2, 3, 1)])
def test_a_fused_projection_is_split_and_turned_as_by_its_definition(
    batch: int, groups: int, heads: int, channels: int, dtype: torch.dtype
) -> None:
    mixed = torch.randn(33, batch, groups, (heads + 2) * 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    angles = table(33, channels)
    found = run(lambda x: rotary_qkv(x, angles, heads), mixed)
    expected = run(lambda x: reference.rotary_qkv(x, angles.double(), heads), mixed.double())
    assert [tuple(one.shape) for one in found] == [
        (33, batch, groups * heads, 16), (33, batch, groups, 16), (33, batch, groups, 16), tuple(mixed.shape),
    ]  # fmt: skip
    assert all(close(found, expected, dtype))
    # By hand: the query heads of a group, then its key, then its value.
    split = mixed.double().unflatten(-1, (heads + 2, 16))
    whole = run(lambda x: rotary(x, angles.double()), split[:, :, :, 0])[0]
    assert close([found[0][:, :, ::heads]], [whole], dtype)[0] and torch.equal(
        found[2], mixed.unflatten(-1, (-1, 16))[..., -1, :]
    )
    # Planted faults: one channel less is turned, positions off by one.
    for wrong in (table(33, channels)[..., : channels // 2 - 1], angles.roll(1, 1)):
        assert not all(close(run(lambda x, t=wrong: rotary_qkv(x, t, heads), mixed)[:2], expected[:2], dtype))


def test_what_is_held_is_the_table_alone_and_queries_lie_as_blocks_of_attention_read_them() -> None:
    held: list[Tensor] = []
    mixed, angles = torch.randn(33, 2, 2, 4 * 16, requires_grad=True), table(33, 16)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        query, key, value = rotary_qkv(mixed, angles, 2)
    assert [tensor.data_ptr() for tensor in held] == [angles.data_ptr()]
    assert all(tensor.permute(1, 2, 0, 3).is_contiguous() for tensor in (query, key, value))
    # Not parts of the projection, whose memory can go.
    assert not {t.untyped_storage().data_ptr() for t in (query, key, value)} & {mixed.untyped_storage().data_ptr()}


def test_gradients_match_finite_differences() -> None:
    angles = table(5, 4).double()
    mixed = torch.randn(5, 2, 2, 3 * 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotary_qkv(x, angles, 1), (mixed,))
    assert torch.autograd.gradcheck(lambda x: rotary(x, angles), (mixed.detach().requires_grad_(),))
