"""A Llama decoder in plain PyTorch, written from the papers, for tests to compare megatron-core's results with.

It imports nothing of this repository. It takes full (unsharded) weights under megatron-core's names, trains on them,
and gives gradients back under the same names.

Shapes, batch first: b batch, s sequence, h hidden, n query heads, g query groups (key/value heads), d head size
(kv_channels), f feed-forward size, v vocabulary.

Sources: Touvron et al., Llama, 2023 (arXiv:2302.13971) and Llama 2, 2023 (arXiv:2307.09288); RoFormer
(arXiv:2104.09864); SwiGLU (arXiv:2002.05202); RMSNorm (arXiv:1910.07467); GQA (arXiv:2305.13245); AdamW
(arXiv:1711.05101).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """Everything about a Llama that is not a weight."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    """Size of one head; num_attention_heads * kv_channels need not be hidden_size."""
    vocab_size: int
    """Real tokens, without the padding rows that megatron-core adds."""
    rotary_base: float
    layernorm_epsilon: float
    tied: bool
    """Whether the output layer is the embedding matrix."""


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + self.eps) * self.weight


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary embedding of x [b, n, s, d]: channels (i, i + d/2) of position p turn by p * base^(-2i/d)."""
    seq_length, head_size = x.shape[-2:]
    frequency = 1.0 / base ** (torch.arange(0, head_size, 2).float() / head_size)  # [d/2]
    angle = torch.arange(seq_length).float()[:, None] * frequency  # [s, d/2]
    turn = torch.complex(angle.cos(), angle.sin())
    first, second = x.chunk(2, dim=-1)
    turned = torch.complex(first, second) * turn  # a pair of channels as one complex number
    return torch.cat([turned.real, turned.imag], dim=-1)


class Attention(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.num_heads, self.num_groups = shape.num_attention_heads, shape.num_query_groups
        self.head_size = shape.kv_channels
        self.rotary_base = shape.rotary_base
        self.q_proj = nn.Linear(shape.hidden_size, self.num_heads * self.head_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, self.num_groups * self.head_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, self.num_groups * self.head_size, bias=False)
        self.o_proj = nn.Linear(self.num_heads * self.head_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, seq_length, _ = x.shape
        query = self.q_proj(x).view(batch, seq_length, self.num_heads, self.head_size).transpose(1, 2)  # [b, n, s, d]
        key = self.k_proj(x).view(batch, seq_length, self.num_groups, self.head_size).transpose(1, 2)  # [b, g, s, d]
        value = self.v_proj(x).view(batch, seq_length, self.num_groups, self.head_size).transpose(1, 2)
        query, key = rotate(query, self.rotary_base), rotate(key, self.rotary_base)
        heads_per_group = self.num_heads // self.num_groups
        key = key.repeat_interleave(heads_per_group, dim=1)  # [b, n, s, d]: head j reads group j // heads_per_group
        value = value.repeat_interleave(heads_per_group, dim=1)
        scores = query @ key.transpose(-1, -2) / self.head_size**0.5  # [b, n, s, s]
        visible = torch.ones(seq_length, seq_length, dtype=torch.bool).tril()
        probabilities = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
        return self.o_proj((probabilities @ value).transpose(1, 2).reshape(batch, seq_length, -1))


class MLP(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.ffn_hidden_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.ffn_hidden_size, bias=False)
        self.down_proj = nn.Linear(shape.ffn_hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(gate * torch.sigmoid(gate) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.layernorm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.layernorm_epsilon)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class ReferenceLlama(nn.Module):
    """Llama with the weights of a megatron-core GPTModel.

    megatron-core's softmax runs over the padding rows of the vocabulary too, unless the caller masks them; this one has
    none, so the two agree only where padding logits are masked out or the vocabulary needs no padding.

    Args: shape; weights, full tensors under megatron-core's names, any dtype; dtype of the parameters made from them.
    Raises: ValueError if a name is missing or left over, or a shape is wrong.
    """

    def __init__(self, shape: LlamaShape, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.layernorm_epsilon)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tied:
            self.lm_head.weight = self.embed_tokens.weight  # one parameter: its gradient is the sum of both uses
        self.to(dtype)
        self._load(weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [b, s], integers -> logits [b, s, v] in the parameters' dtype (fp32 unless another was asked for)."""
        x = self.embed_tokens(tokens)  # [b, s, h]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))

    def loss(self, tokens: Tensor, labels: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the masked-in tokens of -log p(label), in nats, and how many they are. All arguments [b, s]."""
        log_p = torch.log_softmax(self(tokens), dim=-1).gather(-1, labels[..., None])[..., 0]  # [b, s]
        return -(log_p * loss_mask).sum(), loss_mask.sum()

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        expected = fused_layout(self)
        if set(weights) != set(expected):
            missing, unknown = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
            raise ValueError(f"weights do not fit {self.shape}: missing {missing}, unknown {unknown}")
        for name, blocks in expected.items():
            weight = weights[name]
            if name in ("embedding.word_embeddings.weight", "output_layer.weight"):
                weight = weight[: self.shape.vocab_size]  # the rows beyond are padding
            wanted = (sum(block.shape[0] for block in blocks), *blocks[0].shape[1:])
            if tuple(weight.shape) != wanted:
                raise ValueError(f"{name} is {tuple(weight.shape)} without padding rows; it must be {wanted}")
            for block, rows in zip(blocks, weight.split([block.shape[0] for block in blocks]), strict=True):
                block.copy_(rows)


def fused_layout(model: ReferenceLlama, *, gradients: bool = False) -> dict[str, list[Tensor]]:
    """For each of megatron-core's parameters, the pieces of ours that make it, in the order in which they are stacked.

    The pieces are views of our weights, or of their gradients.
    """

    def rows(parameter: Tensor) -> Tensor:
        return gradient_of(parameter) if gradients else parameter.data

    layout = {"embedding.word_embeddings.weight": [rows(model.embed_tokens.weight)]}
    for i, layer in enumerate(model.layers):
        assert isinstance(layer, DecoderLayer), f"layer {i} is a {type(layer).__name__}"  # for the type checker
        attention, mlp, prefix = layer.self_attn, layer.mlp, f"decoder.layers.{i}"
        # Per group: the query heads of the group, then its key head, then its value head.
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        by_group = zip(*(rows(p.weight).chunk(model.shape.num_query_groups) for p in projections), strict=True)
        layout[f"{prefix}.input_layernorm.weight"] = [rows(layer.input_layernorm.weight)]
        layout[f"{prefix}.self_attention.linear_qkv.weight"] = [piece for group in by_group for piece in group]
        layout[f"{prefix}.self_attention.linear_proj.weight"] = [rows(attention.o_proj.weight)]
        layout[f"{prefix}.pre_mlp_layernorm.weight"] = [rows(layer.post_attention_layernorm.weight)]
        layout[f"{prefix}.mlp.linear_fc1.weight"] = [rows(mlp.gate_proj.weight), rows(mlp.up_proj.weight)]
        layout[f"{prefix}.mlp.linear_fc2.weight"] = [rows(mlp.down_proj.weight)]
    layout["decoder.final_layernorm.weight"] = [rows(model.norm.weight)]
    if not model.shape.tied:
        layout["output_layer.weight"] = [rows(model.lm_head.weight)]
    return layout


def weights_by_megatron_name(model: ReferenceLlama) -> dict[str, Tensor]:
    """The parameters as they are now, copied into megatron-core's fused layout; no padding rows."""
    return {name: torch.cat(blocks) for name, blocks in fused_layout(model).items()}


def gradients_by_megatron_name(model: ReferenceLlama) -> dict[str, Tensor]:
    """The gradients of the last backward, copied into megatron-core's fused layout; no padding rows."""
    return {name: torch.cat(blocks) for name, blocks in fused_layout(model, gradients=True).items()}


class Trainable(Protocol):
    """A model that ``train_reference`` takes: this one, or another program's."""

    @property
    def parameters(self) -> Callable[[], Iterable[Tensor]]: ...

    def loss(self, tokens: Tensor, labels: Tensor, loss_mask: Tensor, /) -> tuple[Tensor, Tensor]: ...


def train_reference(
    model: Trainable,
    batches: Sequence[tuple[Tensor, Tensor, Tensor]],
    learning_rates: Sequence[float],
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    clip_grad: float,
) -> list[tuple[float, float]]:
    """One AdamW step per batch, as megatron-core takes it; changes the model in place.

    Args: batches of (tokens, labels, loss_mask), each [b, s], b the global batch; one learning rate per batch; weight
        decay is decoupled and spares parameters of one dimension; clip_grad bounds the global gradient norm, 0 for no
        bound.
    Returns: per step, the loss per token before the step and the norm of its gradient before clipping.
    Raises: ValueError if batches and learning_rates differ in number.
    """
    parameters = list(model.parameters())  # a tied matrix appears once
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ],
        betas=betas,
        eps=eps,
        foreach=False,
    )
    history = []
    for (tokens, labels, loss_mask), learning_rate in zip(batches, learning_rates, strict=True):
        optimizer.zero_grad()
        total, count = model.loss(tokens, labels, loss_mask)
        loss = total / count
        loss.backward()
        norm = torch.stack([(gradient_of(p) ** 2).sum() for p in parameters]).sum().sqrt()
        coefficient = clip_grad / (norm + 1e-6)
        if clip_grad > 0 and coefficient < 1:
            for parameter in parameters:
                gradient_of(parameter).mul_(coefficient)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        history.append((loss.item(), norm.item()))
    return history


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "no gradient: call backward first; every parameter takes part in the loss"
    return parameter.grad
