"""The activations that train, against their definitions and against transformers. Shapes: ... leading, f feed-forward size."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.kernels import activations, reference

FORWARD_BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
BACKWARD_BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-6}
"""Relative to the value, plus a millionth of the largest: geglu in bf16 rounds twice forward (2^-8 each) and three times
backward."""
SIZES = [(7, 3, 31), (1, 1, 1), (5, 2, 256)]
ALPHAS = (torch.tensor([0.3]), torch.tensor([-1.2]))

GATED = ("swiglu", "geglu")

Activation = Callable[..., Tensor]


def definition(name: str) -> "Activation":
    """The definition, as a function of what the activation takes: with a gate, both halves in one tensor."""
    defined = getattr(reference, name)
    return (lambda both: defined(*both.chunk(2, dim=-1))) if name in GATED else defined


def inputs(name: str, size: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """What an activation takes; x holds large values of both signs and an exact zero."""
    generator = torch.Generator().manual_seed(sum(size))
    x, up = (3 * torch.randn(size, generator=generator) for _ in range(2))
    x.view(-1)[-1] = 0.0
    extra = list(ALPHAS) if name == "xielu" else []
    first = torch.cat((x, up), dim=-1) if name in GATED else x
    return [first.to(dtype), *(tensor.to(dtype) for tensor in extra)]


def run(operation: Activation, tensors: list[Tensor]) -> list[Tensor]:
    """The output, then the gradient of each input."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = operation(*leaves)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def close(result: Tensor, expected: Tensor, bound: float) -> bool:
    atol = 1e-6 * expected.abs().max().item()
    return torch.allclose(result.double(), expected.double(), rtol=bound, atol=atol)


@pytest.mark.parametrize("dtype", FORWARD_BOUND)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["swiglu", "geglu", "squared_relu", "xielu"])
def test_each_equals_its_definition_forward_and_backward(name: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    tensors = inputs(name, size, dtype)
    results, expected = run(getattr(activations, name), tensors), run(definition(name), tensors)
    assert [(r.dtype, r.shape) for r in results] == [(e.dtype, e.shape) for e in expected]
    assert close(results[0], expected[0], FORWARD_BOUND[dtype])
    assert all(close(r, e, BACKWARD_BOUND[dtype]) for r, e in zip(results[1:], expected[1:], strict=True))
    if max(size) > 1:  # planted fault: two percent off
        assert not any(close(1.02 * r, e, BACKWARD_BOUND[dtype]) for r, e in zip(results, expected, strict=True))


@pytest.mark.parametrize("dtype", FORWARD_BOUND)
def test_xielu_is_that_of_transformers_and_so_are_its_gradients(dtype: torch.dtype) -> None:
    from transformers.activations import XIELUActivation

    (x, *_) = inputs("xielu", (7, 3, 256), torch.float32)
    # Between eps and 0 autograd's slope of transformers' cut exponent jumps (the test below); everywhere else the two agree.
    x.view(-1)[:4] = torch.tensor([5e-7, -2e-6, -30.0, 30.0])
    x.view(-1)[-1] = 1.0  # no exact zero
    theirs = XIELUActivation(dtype=dtype)
    x, alphas = x.to(dtype), (theirs.alpha_p, theirs.alpha_n)
    wide = XIELUActivation(dtype=torch.float32)
    wide.load_state_dict(theirs.state_dict())  # the same parameters, their arithmetic in fp32
    expected = run(
        lambda x, p, n: torch.func.functional_call(wide, {"alpha_p": p, "alpha_n": n}, x),
        [x.float(), *(a.detach().float() for a in alphas)],
    )
    results = run(activations.xielu, [x, *(a.detach() for a in alphas)])
    assert all(close(r, e, FORWARD_BOUND[dtype]) for r, e in zip(results, expected, strict=True))
    swapped = run(activations.xielu, [x, *(a.detach() for a in reversed(alphas))])  # planted fault
    assert not close(swapped[0], expected[0], 2**-6)


def test_the_slope_of_xielu_has_no_jump_at_zero_where_that_of_transformers_has_one() -> None:
    from transformers.activations import XIELUActivation

    x, theirs = torch.tensor([-1e-4, -1e-9, 0.0, 1e-9, 1e-4]), XIELUActivation(dtype=torch.float32)
    ours = run(activations.xielu, [x, theirs.alpha_p.detach(), theirs.alpha_n.detach()])
    upstream = torch.randn(5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours[1], 0.5 * upstream, rtol=1e-3, atol=1e-6)
    jumping = run(lambda x: theirs(x), [x])
    assert (jumping[1] / upstream)[1:3].max() < 0.0 and (jumping[0] - ours[0]).abs().max() < 1e-6


@pytest.mark.parametrize(("name", "theirs"), [("swiglu", "silu"), ("geglu", "gelu_pytorch_tanh")])
def test_a_gated_activation_is_that_of_transformers_times_up(name: str, theirs: str) -> None:
    from transformers.activations import ACT2FN

    (both,) = inputs(name, (7, 3, 31), torch.bfloat16)
    gate, up = both.chunk(2, dim=-1)
    output, for_both = run(getattr(activations, name), [both])
    expected, for_gate, for_up = run(lambda g, u: ACT2FN[theirs](g) * u, [gate, up])
    assert torch.equal(output, expected) and torch.equal(for_both, torch.cat((for_gate, for_up), dim=-1))
    exact = F.gelu(gate.double()) * up.double()  # planted fault: gelu with erf, 1e-3 away at most
    assert not close(definition(name)(both.double()), exact, 1e-4)


def test_squared_relu_is_that_of_transformers() -> None:
    from transformers.activations import ACT2FN

    (x,) = inputs("squared_relu", (7, 3, 31), torch.bfloat16)
    assert torch.equal(activations.squared_relu(x), ACT2FN["relu2"](x))
    assert torch.equal(activations.squared_relu(x), reference.squared_relu(x))
    assert not close(activations.squared_relu(-x), reference.squared_relu(x), 2**-6)


def bytes_held(operation: Activation, tensors: list[Tensor]) -> int:
    """Bytes of the different tensors that autograd holds between forward and backward."""
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = operation(*(tensor.clone().requires_grad_() for tensor in tensors))
    assert output.grad_fn is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize(("name", "tensors_held"), [("swiglu", 1), ("geglu", 1), ("squared_relu", 1), ("xielu", 1)])
def test_what_is_held_for_the_backward_is_the_inputs_alone(name: str, tensors_held: int) -> None:
    tensors = inputs(name, (5, 2, 256), torch.bfloat16)
    size = tensors[0].untyped_storage().nbytes()
    held = bytes_held(getattr(activations, name), tensors)
    assert tensors_held * size <= held < (tensors_held + 0.5) * size
    # Planted fault: the chain of torch operations.
    chain = {
        "swiglu": lambda both: F.silu(both.chunk(2, -1)[0]) * (both.chunk(2, -1)[1] + 0.0),
        "geglu": lambda both: F.gelu(both.chunk(2, -1)[0], approximate="tanh") * (both.chunk(2, -1)[1] + 0.0),
        "squared_relu": lambda x: F.relu(x) * F.relu(x),
        "xielu": reference.xielu,
    }[name]
    assert bytes_held(chain, tensors) > (tensors_held + 0.5) * size


def test_gradients_match_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64).requires_grad_()
    alphas = [alpha.double().requires_grad_() for alpha in ALPHAS]
    for name in (*GATED, "squared_relu", "xielu"):
        for operation in (getattr(activations, name), definition(name)):
            assert torch.autograd.gradcheck(operation, (x, *(alphas if name == "xielu" else [])))


def test_shapes_and_dtypes_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(2, 3)
    for gated in (activations.swiglu, activations.geglu):
        with pytest.raises(
            AssertionError, match=r"gate and up must be as wide as each other, together they are \(2, 3\)"
        ):
            gated(x)
    with pytest.raises(AssertionError, match=r"alpha_p \(3,\) and alpha_n \(1,\) must have one element each"):
        activations.xielu(x, torch.zeros(3), torch.zeros(1))
