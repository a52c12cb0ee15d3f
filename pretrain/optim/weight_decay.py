"""Which parameters decay, and how strongly at a learning rate: the groups of parameters of every optimizer."""

from functools import partial
from typing import Any

import torch
from megatron.core.optimizer import ParamKey
from megatron.core.optimizer.optimizer_config import ParamWithNamePredicate

from pretrain.config.schema import OptimConfig

MULTIPLIER = "wd_mult"
"""Key of megatron-core's groups: 0 where parameters do not decay, else 1."""
EMBEDDING = "word_embeddings.weight"


def group_overrides(optim: OptimConfig) -> dict[ParamKey, Any]:
    """Return what tells megatron-core which parameters make a group without weight decay."""
    spared = ParamWithNamePredicate(name="without weight decay", fn=partial(_is_spared, optim))
    return {ParamKey(with_name_predicate=spared): {MULTIPLIER: 0.0}}


def _is_spared(optim: OptimConfig, parameter: torch.nn.Parameter, name: str) -> bool:
    """Return whether a parameter does not decay. Both copies of a tied embedding answer alike: the last stage of a pipeline has one
    under the output layer's name, and copies that decayed differently would part.
    """
    if parameter.dim() == 1:
        return not optim.weight_decay_on_vectors
    is_embedding = name.endswith(EMBEDDING) or getattr(parameter, "shared_embedding", False)
    return is_embedding and not optim.weight_decay_on_embeddings


def weight_decay(optim: OptimConfig, group: dict[str, Any], rate: float) -> float:
    """Return the weight decay of a group at a learning rate; the update multiplies it by the rate once more.

    Source of its growth with the rate: Defazio, Why Gradients Rapidly Increase Near the End of Training, 2025 (arXiv:2506.02285).
    There it is for layers before a norm; here, as in levanter, for all parameters that decay.
    """
    return optim.weight_decay * group[MULTIPLIER] * (rate / optim.lr if optim.adamc_weight_decay else 1.0)
