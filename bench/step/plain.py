"""A Llama in plain PyTorch, as one would write it by hand: no framework, no collectives. Compiled or not.

Shapes: b batch, s sequence, h hidden, n query heads, g groups, d head size.
"""

import shutil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.step.task import CLIP, Figures, Precision, Shape, Weights, fused_adamw, queries_keys_values
from fanal.errors import UserError

CPU = torch.device("cpu")
COMPILER = "g++"
"""What torch.compile needs on a CPU."""


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        hidden, heads = shape.hidden_size, shape.num_heads + 2 * shape.num_groups
        self.input_norm = nn.Parameter(torch.ones(hidden))
        self.feed_forward_norm = nn.Parameter(torch.ones(hidden))
        self.qkv = nn.Linear(hidden, heads * shape.head_size, bias=False)
        self.projection = nn.Linear(shape.num_heads * shape.head_size, hidden, bias=False)
        self.gate_and_up = nn.Linear(hidden, 2 * shape.ffn_hidden_size, bias=False)
        self.down = nn.Linear(shape.ffn_hidden_size, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Args: x [b, s, h]; cos, sin [s, d / 2]. Returns: [b, s, h]."""
        shape = self.shape
        x = x + self.projection(self._attention(self.qkv(_rms_norm(x, self.input_norm, shape)), cos, sin))
        gate, up = self.gate_and_up(_rms_norm(x, self.feed_forward_norm, shape)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def _attention(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads, groups = self.shape.num_heads, self.shape.num_groups
        split = qkv.unflatten(-1, (heads + 2 * groups, -1)).transpose(1, 2)  # [b, n + 2g, s, d]
        query, key, value = split.split([heads, groups, groups], dim=1)
        output = F.scaled_dot_product_attention(
            _rotated(query, cos, sin), _rotated(key, cos, sin), value, is_causal=True, enable_gqa=True
        )
        return output.transpose(1, 2).flatten(2)


class CrossEntropy(nn.Module):
    """The mean cross entropy, in fp32."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Args: logits [b, s, v]; labels [b, s]."""
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


class Llama(nn.Module):
    """Tokens and labels in, mean cross entropy out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.final_norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.output = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.loss = CrossEntropy()
        frequencies = shape.rotary_base ** -(torch.arange(0, shape.head_size, 2).float() / shape.head_size)
        angles = torch.outer(torch.arange(shape.seq_length).float(), frequencies)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Args: tokens, labels [b, s]. Returns: the loss in fp32."""
        x = self.embedding(tokens)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.loss(self.output(_rms_norm(x, self.final_norm, self.shape)), labels)

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Take initial weights under megatron-core's names."""
        named = {
            "embedding.word_embeddings.weight": self.embedding.weight,
            "decoder.final_layernorm.weight": self.final_norm,
            "output_layer.weight": self.output.weight,
        }
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            layer = f"decoder.layers.{number}"
            named[f"{layer}.input_layernorm.weight"] = block.input_norm
            named[f"{layer}.pre_mlp_layernorm.weight"] = block.feed_forward_norm
            named[f"{layer}.self_attention.linear_proj.weight"] = block.projection.weight
            named[f"{layer}.mlp.linear_fc1.weight"] = block.gate_and_up.weight
            named[f"{layer}.mlp.linear_fc2.weight"] = block.down.weight
            fused = weights[f"{layer}.self_attention.linear_qkv.weight"]
            block.qkv.weight.copy_(torch.cat(queries_keys_values(fused, self.shape)))
        for name, parameter in named.items():
            parameter.copy_(weights[name])


class Plain:
    """The Llama above with fused AdamW. In bf16 weights and gradients are bf16, and the optimizer's weights fp32, as Fanal's."""

    def __init__(
        self, shape: Shape, precision: Precision, weights: Weights | None, *, compiled: bool = False,
        by_layer: bool = False, device: torch.device = CPU,
    ) -> None:  # fmt: skip
        """Args: weights, initial ones, None for PyTorch's own; by_layer, compile a layer once for all of them, and the loss, as
        torchtitan does: the whole of a large model takes minutes."""
        if compiled and device.type == "cpu":
            check_compiler()
        with device:  # made where it stays
            self.model = Llama(shape)
        if weights is not None:
            self.model.load(weights)
        self.parameters = list(self.model.parameters())
        self.masters = self.parameters
        if precision == "bf16":
            self.masters = [nn.Parameter(parameter.detach().clone()) for parameter in self.parameters]
            for parameter in self.parameters:
                parameter.data = parameter.data.bfloat16()
        self.optimizer = fused_adamw(self.masters)
        self.loss: Any = self.model
        if compiled and by_layer:
            for part in (*self.model.blocks, self.model.loss):
                part.compile()
        elif compiled:
            self.loss = torch.compile(self.model)
        self.device = device

    def step(self, rows: Tensor) -> Figures:
        for parameter in self.parameters:
            parameter.grad = None
        rows = rows.to(self.device)
        loss = self.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        if self.masters is not self.parameters:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                assert parameter.grad is not None, "every weight takes part in the loss"
                master.grad = parameter.grad.float()
        grad_norm = nn.utils.clip_grad_norm_(self.masters, CLIP)
        self.optimizer.step()
        if self.masters is not self.parameters:
            rounded, exact = ([one.detach() for one in some] for some in (self.parameters, self.masters))
            torch._foreach_copy_(rounded, exact)  # pyright: ignore[reportPrivateImportUsage]
        return Figures(float(loss.detach()), float(grad_norm))


def check_compiler() -> None:
    """Raises: UserError where torch.compile would find no C++ compiler."""
    if shutil.which(COMPILER) is None:
        raise UserError(
            f"the contestant 'compiled' needs {COMPILER} on the PATH, which is not there; install it (Debian: apt-get install "
            "g++), or leave it out: --only fanal,megatron,plain,hf,products works"
        )


def _rms_norm(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    return F.rms_norm(x, (shape.hidden_size,), weight, shape.norm_epsilon)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Args: x [b, n, s, d]; cos, sin [s, d / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
