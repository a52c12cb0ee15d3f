"""What the embedding gives, scaled as the model states."""

import torch
from torch import Tensor

from pretrain.config.derive import embedding_factor
from pretrain.config.schema import ModelConfig


def scaled_embedding(embedded: Tensor, model: ModelConfig) -> Tensor:
    """Multiply embedded tokens by the model's factor, rounded to their type as Gemma's is: in bf16, sqrt(1152) is 34.

    Args: embedded [..., h]. Returns: [..., h].
    """
    if model.embedding_scale == "none":
        return embedded
    return embedded * torch.tensor(embedding_factor(model), dtype=embedded.dtype)
