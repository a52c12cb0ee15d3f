"""The choice of an attention backend, made once when a model is built, and why the others were passed over."""

import logging
from dataclasses import dataclass, field

import torch

from fanal.errors import UserError
from fanal.kernels import attention_trial
from fanal.kernels.attention_backend import Backend, Situation, nothing
from fanal.kernels.choice import device_kind
from fanal.kernels.flash2_attention import FLASH2
from fanal.kernels.flash3_attention import FLASH3
from fanal.kernels.flash4_attention import FLASH4
from fanal.kernels.reference import causal_grouped_attention
from fanal.kernels.sdpa_attention import SDPA
from fanal.kernels.triton_attention import TRITON
from fanal.kernels.varlen_attention import VARLEN

logger = logging.getLogger(__name__)

REFERENCE = Backend(
    name="reference",
    obstacles=nothing,
    call=causal_grouped_attention,
    costs=lambda _: ["it holds the [s, s] scores of every head in memory: for tests only"],
)
BACKENDS = {backend.name: backend for backend in (FLASH4, FLASH3, FLASH2, VARLEN, TRITON, SDPA, REFERENCE)}
"""Every backend by its name, a value of model.attention_backend."""
FLASH = (FLASH4, FLASH3, FLASH2)
"""What "flash" means: the newest flash-attn package that can run. The first of "auto" on a GPU."""


@dataclass(frozen=True)
class Choice:
    """The backend that runs, and the reasons against those that were asked before it."""

    name: str
    passed_over: dict[str, str] = field(default_factory=dict)


def situation_here(*, device: torch.device, **of_model) -> Situation:
    """Return the situation of a model on a device of this process. Args: of_model, the other fields of Situation."""
    # AMD's GPUs have numbers of their own there, (9, 0) as well.
    is_nvidia = device.type == "cuda" and torch.version.hip is None and torch.cuda.is_available()
    capability = torch.cuda.get_device_capability(device) if is_nvidia else None
    return Situation(device_type=device_kind(device), capability=capability, **of_model)


def select_attention_backend(requested: str, situation: Situation, device: torch.device | None = None) -> Choice:
    """Settle the backend once, when the model is built, and log what was chosen and why.

    "auto" takes the first that can run: on a GPU flash-attn 4, 3, 2, then for whole rows torch's scaled_dot_product_attention and
    varlen_attn, else varlen_attn, our own Triton kernels and scaled_dot_product_attention; varlen_attn takes no cap on the scores
    and is not asked then. On a CPU it takes sdpa, which is blocks of our own there.

    Args: requested, "auto", "flash" or a name of BACKENDS; device, the GPU on which a backend has its trial (attention_trial),
        None for no trial. A trial of flash-attn 4 compiles what the run needs anyway.
    Returns: a choice whose name causal_attention takes.
    Raises: UserError if the requested backend cannot run here, with the reasons and what can.
    """
    passed_over: dict[str, str] = {}
    for backend in _candidates(requested, situation):
        reasons = backend.obstacles(situation)
        if not reasons and device is not None and device.type == "cuda" and backend is not REFERENCE:
            fault = attention_trial.failure(backend, situation, device)
            reasons = [fault] if fault is not None else []
        if not reasons:
            _say(requested, backend, situation, passed_over)
            return Choice(backend.name, passed_over)
        passed_over[backend.name] = "; ".join(reasons)
    against = ". ".join(f"{name}: {why}" for name, why in passed_over.items())
    works = (
        "'auto' takes what can" if requested != "auto" else "model.attention_backend=reference runs anywhere, for tests"
    )
    raise UserError(f"attention backend {requested!r} cannot run ({situation}). {against}. {works}")


def _candidates(requested: str, situation: Situation) -> tuple[Backend, ...]:
    """Return the backends to ask, in order. Raises: UserError for a name that is none."""
    if requested == "flash":
        return FLASH
    if requested != "auto":
        if requested not in BACKENDS:
            raise UserError(f"unknown attention backend {requested!r}; known: auto, flash, {', '.join(BACKENDS)}")
        return (BACKENDS[requested],)
    if situation.device_type != "cuda":
        return (SDPA,)
    if situation.soft_cap is not None:
        return (*FLASH, TRITON, SDPA)
    # varlen_attn packs rows, a copy that whole rows do not need, and scaled_dot_product_attention may run cuDNN's kernel.
    own = (VARLEN, TRITON, SDPA) if situation.documents or situation.window is not None else (SDPA, VARLEN, TRITON)
    return (*FLASH, *own)


def _say(requested: str, backend: Backend, situation: Situation, passed_over: dict[str, str]) -> None:
    logger.info("attention backend: %s (requested: %s; %s)", backend.name, requested, situation)
    for name, why in passed_over.items():
        logger.info("attention backend %s was passed over: %s", name, why)
    for cost in backend.costs(situation):
        logger.warning("attention backend %r (%s): %s", backend.name, situation, cost)
