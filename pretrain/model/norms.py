"""The norms of a decoder, as modules that megatron-core builds.

Shapes: s sequence, b micro batch, h hidden, n heads, d head size; /t split by tensor parallelism.
"""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import checkpoint
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)

from fanal.kernels.layer_norm import layer_norm
from pretrain.config.derive import key_value_holders
from pretrain.model.translate import DecoderConfig


class RMSNorm(torch.nn.Module):
    """RMSNorm over the last dimension (Zhang and Sennrich, 2019): [s, b, h] or, under sequence parallelism, [s/t, b, h]."""

    def __init__(self, config: DecoderConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps, self.zero_centered = eps, config.layernorm_zero_centered_gamma
        self.rms_norm = config.operations.rms_norm
        self.weight = _parameter(config, hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.rms_norm(hidden, self.weight, self.eps, self.zero_centered)


class LayerNorm(torch.nn.Module):
    """LayerNorm with a bias (Ba et al., 2016, arXiv:1607.06450): [s, b, h] or, under sequence parallelism, [s/t, b, h]."""

    def __init__(self, config: DecoderConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps, self.zero_centered = eps, config.layernorm_zero_centered_gamma
        self.weight = _parameter(config, hidden_size)
        self.bias = _parameter(config, hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return layer_norm(hidden, self.weight, self.bias, self.eps, self.zero_centered)


class HeadNorm(RMSNorm):
    """RMSNorm of each head by itself (QK-norm, Henry et al., 2020, arXiv:2010.04245): [s, b, n/t, d]."""


class HeadsNorm(torch.nn.Module):
    """RMSNorm over all heads together, also those of other tensor-parallel ranks (OLMo 2, arXiv:2501.00656): [s, b, n/t, d].

    Every rank holds the whole weight and uses the part of its own heads; megatron sums the gradients of norms of queries and
    keys over tensor-parallel ranks. Costs an all-reduce of [s, b, 1] in fp32, forward and backward.
    """

    def __init__(self, config: DecoderConfig, num_heads: int, head_size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.zero_centered, self.head_size = eps, config.layernorm_zero_centered_gamma, head_size
        self.weight = _parameter(config, num_heads * head_size)
        ranks = config.tensor_model_parallel_size
        self.num_holders = key_value_holders(num_heads, tensor_model_parallel_size=ranks)
        """Ranks that hold the same head, and that all add its squares; 1 for query heads."""

        self.recomputes = "layernorm" in config.recomputed

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        if self.recomputes and self.training:
            return checkpoint(self._normed, False, heads)  # its chain of operations holds three tensors in fp32
        return self._normed(heads)

    def _normed(self, heads: torch.Tensor) -> torch.Tensor:
        count, number = heads.shape[2], parallel_state.get_tensor_model_parallel_rank() // self.num_holders
        weight = self.weight.view(-1, self.head_size)[number * count : (number + 1) * count]
        wide = heads.float()
        squares = wide.square().sum(dim=(2, 3), keepdim=True)  # of this rank's heads, [s, b, 1, 1]
        # Every rank's output depends on every rank's squares: their sum is reduced forward, its gradient backward.
        total = copy_to_tensor_model_parallel_region(reduce_from_tensor_model_parallel_region(squares))
        normed = wide * torch.rsqrt(total / (self.num_holders * self.weight.numel()) + self.eps)
        return (normed * (weight.float() + 1.0 if self.zero_centered else weight.float())).to(heads.dtype)


class QueriesNorm(HeadsNorm):
    """RMSNorm over all query heads."""

    def __init__(self, config: DecoderConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        """Args: hidden_size: that of one head, as megatron builds norms of queries and keys."""
        super().__init__(config, config.num_attention_heads, hidden_size, eps)


class KeysNorm(HeadsNorm):
    """RMSNorm over all key heads."""

    def __init__(self, config: DecoderConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        """Args: as QueriesNorm."""
        assert config.model is not None, "translate.py states the model; megatron's key heads count copies"
        super().__init__(config, config.model.num_query_groups, hidden_size, eps)


def _parameter(config: DecoderConfig, size: int) -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.empty(size, dtype=config.params_dtype))
    # Under sequence parallelism each tensor-parallel rank sees a part of the sequence, and so a part of this
    # gradient; megatron sums the gradients of the parameters that carry this mark.
    parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return parameter
