"""The rotary angles that megatron-core's layers turn by, for every kind of layer.

Shapes: s sequence, c turned channels of a head, k kinds of layers.
"""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

from fanal.kernels.reference import rotary_angles
from fanal.kernels.rotary import rotary_table
from pretrain.config.derive import kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.model.rotary import layer_frequencies
from pretrain.parallel.sequence_chunks import part_of


class LayerAngles(RotaryEmbedding):
    """Cosines and sines of every position for every kind of layer, in one tensor: megatron hands it to each layer through
    recomputation and every pipeline stage, and the layer takes its own (layer_spec.py). Made once for a sequence length."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(kv_channels(model), model.rotary_percent, rotary_base=model.rotary_base)  # type: ignore[arg-type]
        self.inv_freq = torch.stack(layer_frequencies(model)).to(self.inv_freq.device)  # [k, c/2]
        self._table: torch.Tensor | None = None
        self._length = 0

    def forward(self, max_seq_len: int, *_: Any, **__: Any) -> torch.Tensor:
        """Return the cosines and sines of this rank's positions, [k, 2, s, c/2], fp32: those of the two halves of the turned
        channels are the same. Args: max_seq_len, positions of a row, those of the other context-parallel ranks among them."""
        if self._table is None or self._length != max_seq_len:
            angles = torch.stack([rotary_angles(max_seq_len, frequencies) for frequencies in self.inv_freq])
            rank, ranks = parallel_state.get_context_parallel_rank(), parallel_state.get_context_parallel_world_size()
            self._table, self._length = part_of(rotary_table(angles), rank, ranks, dim=-2), max_seq_len
        return self._table
