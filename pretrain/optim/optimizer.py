"""megatron-core's optimizer for a run, over fp32 master weights, split among replicas or not. Which one it is: registry.py."""

from functools import partial

import torch
import torch._dynamo  # which the first act of any optimizer imports: here with all else, before local ranks are forked
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.utils import get_model_config

from pretrain.config.schema import RunConfig
from pretrain.model.gpt import unwrap
from pretrain.model.placement import specs_of
from pretrain.model.translate import PARAMS_DTYPE
from pretrain.optim.ema import make_averages, update_averages
from pretrain.optim.fused_adamw import FusedAdamW, copy_in_the_update, with_kernel
from pretrain.optim.registry import optimizer_of
from pretrain.optim.shards import shards_of
from pretrain.optim.states import counted_gradients, inner_optimizers, make_states
from pretrain.optim.weight_decay import group_overrides, weight_decay


def build_optimizer(run: RunConfig, model: list[DistributedDataParallel]) -> MegatronOptimizer:
    """Build the configured optimizer over the model's chunks. Which of them decay: weight_decay.py.

    Collective: every rank calls it.
    """
    optim = run.optim
    dtype = PARAMS_DTYPE[run.train.precision]
    config = OptimizerConfig(
        optimizer="adam",  # what another one goes over: ``Optimizer.over``
        lr=optim.lr,
        min_lr=optim.min_lr,
        weight_decay=optim.weight_decay,
        decoupled_weight_decay=True,
        clip_grad=optim.clip_grad,
        bf16=dtype is torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=run.parallel.use_distributed_optimizer,
        overlap_param_gather=run.parallel.overlap_param_gather,
    )
    optimizer = get_megatron_optimizer(
        config, list(model), config_overrides=group_overrides(optim), use_gloo_process_groups=False
    )
    device = next(model[0].parameters()).device
    stated = with_kernel(optimizer_of(optim), run.kernels.adamw, device, dtype)
    specs = {parameter: spec for chunk in unwrap(list(model)) for spec, parameter in specs_of(chunk)}
    make_states(optimizer, stated, specs)
    copy_in_the_update(optimizer)
    if stated.told_of_shards is not None:
        for inner in inner_optimizers(optimizer):
            stated.told_of_shards(inner.optimizer, shards_of(run.model, model, inner))
    for group in optimizer.param_groups:
        group["weight_decay_at"] = partial(weight_decay, optim, dict(group))
        group.update(stated.settings(optim))
    set_learning_rate(optimizer, optim.lr)
    if optim.ema_decay is not None:
        make_averages(optimizer, optim.ema_decay)
    get_model_config(model[0]).grad_scale_func = optimizer.scale_loss
    return optimizer


def set_learning_rate(optimizer: MegatronOptimizer, rate: float) -> None:
    """Use ``rate`` in the next step, and the weight decay that goes with it."""
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = rate, group["weight_decay_at"](rate)


def gradient_norm(optimizer: MegatronOptimizer, device: torch.device) -> float:
    """Make the gradients ready, and return their global norm before gradient clipping; not finite if they cannot be used.

    Followed by ``apply_gradients`` or, to skip the step, by nothing: so far nothing has changed. megatron's own ``step``
    continues with a NaN norm when there is no loss scaler, and every weight becomes NaN; its norm reads one number of each
    parameter on the host.
    Collective; one device sync, whatever the number of parameters.
    """
    overflow = optimizer.prepare_grads()
    assert not overflow, "without a loss scaler nothing is looked for"
    squares = []
    for inner in inner_optimizers(optimizer):
        gradients = counted_gradients(inner)
        # Each rank's sum in fp64: its last bits shall not depend on how many ranks add to it.
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=device)
        square = norm.double().square()
        dist.all_reduce(square, group=inner.get_grad_stats_parallel_group())
        squares.append(square)
    return float(torch.stack(squares).sum().sqrt())


def apply_gradients(optimizer: MegatronOptimizer, grad_norm: float) -> None:
    """Apply gradient clipping with the norm that ``gradient_norm`` gave, and update weights and averages. Collective: all ranks
    call it, or none.

    By our kernel both are one pass, and the gradients stay as they are (fused_adamw.py).
    """
    for inner in inner_optimizers(optimizer):
        limit = inner.config.clip_grad
        factor = limit / (grad_norm + 1e-6)
        gradients = [parameter.grad for parameter in inner.get_parameters() if parameter.grad is not None]
        if not gradients or limit <= 0.0 or factor >= 1.0:
            continue
        if isinstance(inner.optimizer, FusedAdamW):
            inner.optimizer.clip_next(factor)
        else:
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
    optimizer.step_with_ready_grads()
    update_averages(optimizer)  # while updated parameters are on their way to the other replicas
