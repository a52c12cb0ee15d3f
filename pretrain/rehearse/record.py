"""What a rehearsal found of one rank, as plain numbers."""

from dataclasses import dataclass

TO_GPU, TO_HOST = "to the GPU", "to the host"
"""Ways of a copy."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the memory at its peak."""

    kind: str
    """In words, from ``places.py``."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """Tensors that one line of code made and that lie in memory at the peak."""

    kind: str
    place: str
    """``file:line function`` of the product or of megatron-core; the operation of autograd in a backward pass."""
    operation: str
    num_tensors: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The collectives of one kind in one group, in one step."""

    group: str
    """``tp``, ``pp``, ``dp``, ...: ``groups.py``."""
    ranks: int
    operation: str
    calls: int
    num_bytes: int
    """Bytes of the whole tensor, gathered or before it is scattered; what a rank sends depends on the algorithm. Of an
    all-to-all: what this rank gives, to itself included."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Times that the host waits for the GPU in one step, at one place."""

    reason: str
    place: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Copies between host and GPU in one step, at one place."""

    way: str
    place: str
    count: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step does besides holding memory."""

    traffic: tuple[Traffic, ...]
    waits: tuple[Wait, ...]
    copies: tuple[Copy, ...]
    flops: int
    """Operations of matrix products and attention on this rank, recomputation included."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """One rank of one layout."""

    rank: int
    num_ranks: int
    tp_rank: int
    pp_rank: int
    dp_rank: int
    cp_rank: int = 0
    """Its number among the ranks of its sequences."""
    micro_batches: int
    """Of one step."""
    rehearsed_micro_batches: int
    """Of the largest step that was rehearsed; the figures of a step are those of ``micro_batches``, by ``steps.py``."""
    num_layers: int
    """On this rank, in all of its model chunks."""
    num_parameters: int
    """On this rank."""
    attention: str
    """The backend that was chosen."""
    model_bytes: int
    """Live after the model was built: weights and gradients."""
    with_optimizer_bytes: int
    after_step_bytes: int
    peak_bytes: int
    peak_parts: tuple[Part, ...]
    """Largest first; they add up to ``peak_bytes``."""
    peak_lines: tuple[Line, ...]
    """Largest first; they add up to ``peak_bytes``."""
    step: Step
    seconds: float
    """Time that the rehearsal took."""
