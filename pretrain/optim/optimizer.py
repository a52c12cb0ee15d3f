"""megatron-core's optimizer for a run: AdamW with fp32 master weights, split among replicas or not."""

import math
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.utils import get_model_config

from pretrain.config.schema import OptimConfig, RunConfig
from pretrain.model.translate import PARAMS_DTYPE


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an optimizer step did."""

    grad_norm: float
    """Global gradient norm before clipping; not finite if the step was skipped."""
    skipped: bool


def build_optimizer(run: RunConfig, model: list[DistributedDataParallel]) -> MegatronOptimizer:
    """AdamW over the model's chunks; no weight decay on one-dimensional parameters (norms and biases).

    Collective: every rank calls it.
    """
    optim = run.optim
    dtype = PARAMS_DTYPE[run.train.precision]
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        min_lr=optim.min_lr,
        weight_decay=optim.weight_decay,
        decoupled_weight_decay=True,
        adam_beta1=optim.adam_beta1,
        adam_beta2=optim.adam_beta2,
        adam_eps=optim.adam_eps,
        clip_grad=optim.clip_grad,
        bf16=dtype is torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=run.parallel.use_distributed_optimizer,
        overlap_param_gather=run.parallel.overlap_param_gather,
    )
    optimizer = get_megatron_optimizer(config, list(model), use_gloo_process_groups=False)
    apply_settings(optimizer, optim)
    get_model_config(model[0]).grad_scale_func = optimizer.scale_loss
    return optimizer


def apply_settings(optimizer: MegatronOptimizer, optim: OptimConfig) -> None:
    """Take AdamW's settings from the config. Loading a checkpoint brings back those it was saved with: call it after."""
    for group in optimizer.param_groups:
        group["weight_decay"] = optim.weight_decay * group["wd_mult"]  # wd_mult is 0 for norms and biases
        group["betas"] = (optim.adam_beta1, optim.adam_beta2)
        group["eps"] = optim.adam_eps


def set_learning_rate(optimizer: MegatronOptimizer, rate: float) -> None:
    """Use ``rate`` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def step_unless_not_finite(optimizer: MegatronOptimizer) -> Update:
    """Clip and apply the gradients, unless their norm is not finite: then nothing changes.

    megatron's own ``step`` goes on with a NaN norm when there is no loss scaler, and every weight becomes NaN.
    All ranks decide alike, since the norm is reduced over all of them. Collective; one device sync, in the norm.
    """
    overflow = optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    if overflow or not math.isfinite(grad_norm):
        return Update(grad_norm=grad_norm, skipped=True)
    for part in inner_optimizers(optimizer):
        parameters = part.get_parameters()
        if parameters and part.config.clip_grad > 0.0:
            clip_grad_by_total_norm_fp32(list(parameters), part.config.clip_grad, grad_norm)
    optimizer.step_with_ready_grads()
    return Update(grad_norm=grad_norm, skipped=False)


def inner_optimizers(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers inside megatron's chain of one."""
    return list(optimizer.chained_optimizers) if isinstance(optimizer, ChainedOptimizer) else [optimizer]
