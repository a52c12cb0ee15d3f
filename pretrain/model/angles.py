"""The rotary angles that megatron-core's layers turn by, for every kind of layer.

Shapes: s sequence, c turned channels of a head, k kinds of layers.
"""

from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

from fanal.kernels.reference import rotary_angles
from pretrain.config.derive import kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.model.rotary import layer_frequencies


class LayerAngles(RotaryEmbedding):
    """Angles of every position for every kind of layer, in one tensor: megatron hands it to each layer through recomputation
    and every pipeline stage, and the layer takes its own (layer_spec.py)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(kv_channels(model), model.rotary_percent, rotary_base=model.rotary_base)  # type: ignore[arg-type]
        self.inv_freq = torch.stack(layer_frequencies(model)).to(self.inv_freq.device)  # [k, c/2]

    def forward(self, max_seq_len: int, *_: Any, **__: Any) -> torch.Tensor:
        """Return the angles [k, s, 1, 1, c]: those of the two halves of the turned channels are the same."""
        angles = torch.stack([rotary_angles(max_seq_len, frequencies) for frequencies in self.inv_freq])
        return torch.cat((angles, angles), dim=-1)[:, :, None, None, :]
