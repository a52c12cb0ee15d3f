"""The activation that learns: xIELU, one pair of numbers for each layer."""

import torch
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region

from fanal.kernels.activations import xielu
from pretrain.model.translate import DecoderConfig


class XIELU(torch.nn.Module):
    """xIELU with two learned numbers (Huang and Schlag, 2024, arXiv:2411.13010): [s, b, f/t], f feed-forward width.

    Each tensor-parallel rank sees a part of the width, and so a part of their gradients: two numbers are summed in backward.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.alpha_p = torch.nn.Parameter(torch.empty(1, dtype=config.params_dtype))
        self.alpha_n = torch.nn.Parameter(torch.empty(1, dtype=config.params_dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = copy_to_tensor_model_parallel_region(torch.cat((self.alpha_p, self.alpha_n)))
        return xielu(x, both[:1], both[1:])
