"""The trainer's own model runs on a CPU in fp32, from a checkpoint of any layout, one layer in memory at a time.

The layers are those that train: megatron's TransformerLayer by ``layer_spec``, with our norms and attention. Nothing is
implemented a second time for the export.
Shapes: s sequence, h hidden, v vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from megatron.core.transformer.spec_utils import build_module

from fanal.kernels.reference import soft_cap
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.disk.tensors import TensorReader
from pretrain.config.schema import DataConfig, ModelConfig, OptimConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.model.angles import LayerAngles
from pretrain.model.embedding import scaled_embedding
from pretrain.model.families.table import EMBEDDING, OUTPUT, layer_tensor
from pretrain.model.layer_spec import layer_spec, norm_of
from pretrain.model.translate import transformer_config
from pretrain.optim.registry import MASTER

Point = tuple[str, list[torch.Tensor]]
"""A point in the model by its name, and the state of each text there, [s, h]."""


class OurModel:
    """The trainer's model, run over texts. It works only inside ``open_lone_world``.

    Args: dtype: ``bfloat16`` rounds the masters, as training in bf16 does; the arithmetic is fp32 either way; state: what of the
    checkpoint the weights are, the masters or their moving average.
    """

    def __init__(
        self, reader: TensorReader, model: ModelConfig, *, vocab_size: int, dtype: str, state: str = MASTER
    ) -> None:
        self._reader, self._model, self._vocab_size, self._state = reader, model, vocab_size, state
        self._is_rounded = dtype == "bfloat16"
        self._config = transformer_config(_alone(model))
        self._angles = LayerAngles(model)
        self._normed: list[torch.Tensor] = []
        self._output: torch.Tensor | None = None

    @torch.no_grad()
    def points(self, texts: Sequence[np.ndarray]) -> Iterator[Point]:
        """Yield the state of every text after each part of the model, from the embedding to the last norm."""
        embedding = self._rows(EMBEDDING)
        states = [
            scaled_embedding(embedding[torch.from_numpy(ids)][:, None], self._model) for ids in texts
        ]  # [s, 1, h]
        if not self._model.share_embeddings_and_output_weights:
            del embedding
        yield "embedding", [state[:, 0] for state in states]
        angles = self._angles(max(len(ids) for ids in texts))  # [kinds of layers, 2, s, c/2]
        for number in range(self._model.num_layers):
            layer: Any = build_module(layer_spec(self._config, "sdpa"), config=self._config, layer_number=number + 1)
            layer.eval()
            for name, parameter in layer.named_parameters():
                self._fill(parameter, layer_tensor(number, name))
            middle: list[torch.Tensor] = []
            layer.pre_mlp_layernorm.register_forward_pre_hook(lambda _, inputs, middle=middle: middle.append(inputs[0]))
            states = [layer(state, None, rotary_pos_emb=angles[..., : len(state), :])[0] for state in states]
            yield f"layer {number}, attention", [state[:, 0] for state in middle]
            yield f"layer {number}, feed-forward", [state[:, 0] for state in states]
        norm: Any = norm_of(self._config)(self._config, self._model.hidden_size, self._model.layernorm_epsilon)
        for name, parameter in norm.named_parameters():
            self._fill(parameter, f"decoder.final_layernorm.{name}")
        self._normed = [norm(state)[:, 0] for state in states]
        yield "final norm", self._normed

    @torch.no_grad()
    def logits(self, text: int, positions: slice) -> torch.Tensor:
        """Return the logits at some positions of a text, [positions, v] without padding. Call it after ``points`` has ended."""
        if self._output is None:
            tied = self._model.share_embeddings_and_output_weights
            self._output = self._rows(EMBEDDING if tied else OUTPUT)
        logits = torch.nn.functional.linear(self._normed[text][positions], self._output)
        cap = self._model.final_logit_softcap
        return logits if cap is None else soft_cap(logits, cap)

    def _rows(self, name: str) -> torch.Tensor:
        values = torch.empty(self._vocab_size, self._model.hidden_size)
        self._fill(values, name)
        return values

    @torch.no_grad()
    def _fill(self, target: torch.Tensor, name: str) -> None:
        """Fill the target with the first rows of a tensor, as many as the target has."""
        box = Box(offset=(0,) * target.dim(), size=tuple(target.shape))
        self._reader.read(name, self._state, box, target.numpy())
        if self._is_rounded:
            target.copy_(target.to(torch.bfloat16))


def _alone(model: ModelConfig) -> RunConfig:
    """Return the config of a run of one rank in fp32; a layer depends on the model alone."""
    return RunConfig(
        run_dir="",
        model=model,
        data=DataConfig(tokenizer="", seq_length=1),
        parallel=ParallelConfig(device="cpu"),
        optim=OptimConfig(lr=0.0),
        train=TrainConfig(train_steps=1, global_batch_size=1, micro_batch_size=1, precision="fp32"),
    )
