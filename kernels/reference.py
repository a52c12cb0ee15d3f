"""The definition of each operation in plain torch: slow, short, and what every faster version is tested against.

Shapes follow megatron-core's order, one letter each:
    s sequence, b micro batch, h hidden, n query heads, g query groups (key/value heads), d head size,
    f feed-forward size, v vocabulary. "..." stands for any leading dimensions.

Arithmetic: every operation computes in fp32 (in fp64 for fp64 inputs, so that gradients can be checked against finite
differences) and rounds once, at the end, to the dtype of its input. A faster version may round in other places; its
test states by how much the results may then differ.
"""

import math

import torch
from torch import Tensor


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return fp32 for everything up to fp32, fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def rms_norm(x: Tensor, weight: Tensor, eps: float, zero_centered: bool = False) -> Tensor:
    """Compute root-mean-square layer normalisation: x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    The product with the weight is rounded once. Hugging Face's Llama rounds before the product as well, which in bf16
    changes about one element in four by one unit in the last place.

    Args: x [..., h]; weight [h]; eps > 0, added to the mean square; zero_centered: multiply by 1 + weight (Gemma), the
        sum not rounded to the dtype of the weight.
    Returns: [..., h] in x.dtype.
    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467).
    """
    assert weight.shape == x.shape[-1:], f"weight {tuple(weight.shape)} must match the last dim of x {tuple(x.shape)}"
    wide = x.to(_compute_dtype(x.dtype))
    inverse_rms = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)  # [..., 1]
    return (wide * inverse_rms * (weight.to(wide.dtype) + float(zero_centered))).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, zero_centered: bool = False) -> Tensor:
    """Compute layer normalisation: (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension.

    Args: x [..., h]; weight [h]; bias [h], or None for none; eps > 0, added to the variance (the one divided by h);
        zero_centered: multiply by 1 + weight (LayerNorm1P of NeMo and Nemotron), the sum not rounded.
    Returns: [..., h] in x.dtype.
    Source: Ba, Kiros and Hinton, Layer Normalization, 2016 (arXiv:1607.06450).
    """
    assert weight.shape == x.shape[-1:], f"weight {tuple(weight.shape)} must match the last dim of x {tuple(x.shape)}"
    wide = x.to(_compute_dtype(x.dtype))
    centred = wide - wide.mean(dim=-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    scaled = normed * (weight.to(wide.dtype) + float(zero_centered))
    return (scaled if bias is None else scaled + bias.to(wide.dtype)).to(x.dtype)


def rotary_frequencies(head_size: int, theta: float, device: torch.device | None = None) -> Tensor:
    """Return the angle that each pair of channels turns by from one position to the next: theta^(-2i/d), i = 0 .. d/2 - 1.

    Args: head_size d, even; theta, the base of the geometric series of wavelengths (10,000 in the paper).
    Returns: [d/2], radians, fp32.
    Source: Su et al., RoFormer, 2021 (arXiv:2104.09864), section 3.2.2.
    """
    assert head_size % 2 == 0, f"head_size ({head_size}) must be even: rotary embedding turns pairs of channels"
    return theta ** -(torch.arange(0, head_size, 2, dtype=torch.float32, device=device) / head_size)


def llama3_frequencies(
    frequencies: Tensor, *, factor: float, low_freq_factor: float, high_freq_factor: float, original_length: int
) -> Tensor:
    """Divide slow rotary frequencies by a factor, leave fast ones, and pass smoothly from the ones to the others.

    A pair of channels that makes fewer than low_freq_factor turns within the original length is slow, one with more than
    high_freq_factor is fast. For linear scaling all are divided.

    Args: frequencies [d/2] as of rotary_frequencies; original_length, tokens in the sequences of the training before.
    Returns: [d/2].
    Source: Grattafiori et al., Llama 3, 2024 (arXiv:2407.21783); the smooth part is that of the published code of Llama 3.1.
    """
    turns = original_length * frequencies / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(
        0.0, 1.0
    )  # share that is not divided
    return frequencies * (kept + (1 - kept) / factor)


def yarn_frequencies(
    frequencies: Tensor,
    *,
    theta: float,
    factor: float,
    original_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Tensor:
    """Divide slow rotary frequencies by a factor, leave fast ones, and pass linearly in the pair's number in between.

    A pair that makes beta_fast turns or more within the original length is fast, one that makes beta_slow or fewer is
    slow. Both bounds are rounded outwards to whole pairs, as the paper's code does ("truncate" in transformers).

    Args: frequencies [d/2], theta^(-2i/d); theta, their base; factor, by which the length grows; original_length, tokens in
        the sequences of the training before.
    Returns: [d/2].
    Source: Peng et al., YaRN, 2023 (arXiv:2309.00071), section 3.2; rounding and clamping are those of its code.
    """
    num_pairs = len(frequencies)

    def pair_that_turns(turns: float) -> float:  # solves original_length * theta^(-i / num_pairs) = 2 pi turns for i
        return num_pairs * math.log(original_length / (turns * 2 * math.pi)) / math.log(theta)

    # d - 1, not d/2 - 1, is what the published code clamps to; it shows where even the slowest pair makes > beta_slow turns.
    first = max(math.floor(pair_that_turns(beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(beta_slow)), 2 * num_pairs - 1)
    pairs = torch.arange(num_pairs, dtype=torch.float32, device=frequencies.device)
    width = last - first or 0.001  # a step where both bounds meet
    divided = ((pairs - first) / width).clamp(0.0, 1.0)  # share that is divided
    return frequencies / factor * divided + frequencies * (1 - divided)


def yarn_attention_factor(factor: float) -> float:
    """Return what YaRN multiplies rotated queries and keys by, each: 0.1 ln(factor) + 1, and 1 for a factor up to 1.

    The scores grow by its square. Source: Peng et al., YaRN, 2023 (arXiv:2309.00071), section 3.4.
    """
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotary_angles(seq_length: int, frequencies: Tensor) -> Tensor:
    """Return the rotation angle of every position and every pair of channels: position * frequency.

    Args: seq_length s; frequencies [d/2].
    Returns: [s, d/2], radians, fp32.
    """
    return torch.outer(torch.arange(seq_length, dtype=torch.float32, device=frequencies.device), frequencies)


def rotary_embedding(x: Tensor, theta: float) -> Tensor:
    """Turn each pair of channels of each head by an angle that grows with the position.

    Half-rotation layout, as in GPT-NeoX and Hugging Face's Llama: channel i is paired with channel i + d/2. The paper,
    and Meta's own checkpoints, pair 2i with 2i + 1; the two differ by a fixed permutation of each head's channels.

    Args: x [s, b, n, d], positions 0 .. s - 1; theta as in rotary_frequencies.
    Returns: [s, b, n, d] in x.dtype.
    Source: Su et al., RoFormer, 2021 (arXiv:2104.09864).
    """
    assert x.dim() == 4, f"x must be [s, b, n, d], got {tuple(x.shape)}"
    angles = rotary_angles(x.shape[0], rotary_frequencies(x.shape[-1], theta, x.device))[
        :, None, None, :
    ]  # [s, 1, 1, d/2]
    first, second = x.to(_compute_dtype(x.dtype)).chunk(2, dim=-1)  # each [s, b, n, d/2]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def rotary_qkv(mixed: Tensor, table: Tensor, heads_per_group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split what a fused projection gives into queries, keys and values, and turn the first two by a table of cosines and sines.

    Args: mixed [s, b, g, (n/g + 2) d], in each group its query heads, its key and its value; table [2, s, c/2], of the first c
        channels of each head; heads_per_group: n/g.
    Returns: query [s, b, n, d]; key, value [s, b, g, d], in mixed.dtype.
    Source: as of rotary_embedding.
    """
    seq_length, batch, groups, width = mixed.shape
    split = mixed.view(seq_length, batch, groups, heads_per_group + 2, width // (heads_per_group + 2))
    half = table.shape[-1]
    cos, sin = (part[:, None, None, None, :] for part in table)
    turning = split[:, :, :, :-1].to(table.dtype)
    first, second, rest = turning[..., :half], turning[..., half : 2 * half], turning[..., 2 * half :]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1).to(mixed.dtype)
    return turned[:, :, :, :-1].flatten(2, 3), turned[:, :, :, -1], split[:, :, :, -1]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute the gated feed-forward activation: gate * sigmoid(gate) * up, elementwise.

    Args: gate, up [..., f], equal shapes.
    Returns: [..., f] in gate.dtype.
    Source: Shazeer, GLU Variants Improve Transformer, 2020 (arXiv:2002.05202).
    """
    assert gate.shape == up.shape, f"gate {tuple(gate.shape)} and up {tuple(up.shape)} must have the same shape"
    wide = gate.to(_compute_dtype(gate.dtype))
    return (wide * torch.sigmoid(wide) * up.to(wide.dtype)).to(gate.dtype)


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute the gated feed-forward activation with gelu in its tanh form (Gemma): gelu(gate) * up, elementwise.

    Args: gate, up [..., f], equal shapes.
    Returns: [..., f] in gate.dtype.
    Source: Shazeer, 2020 (arXiv:2002.05202); the tanh form: Hendrycks and Gimpel, GELU, 2016 (arXiv:1606.08415).
    """
    assert gate.shape == up.shape, f"gate {tuple(gate.shape)} and up {tuple(up.shape)} must have the same shape"
    wide = gate.to(_compute_dtype(gate.dtype))
    gelu = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    return (gelu * up.to(wide.dtype)).to(gate.dtype)


def squared_relu(x: Tensor) -> Tensor:
    """Compute max(x, 0)^2, elementwise. [..., f] -> [..., f]. Source: So et al., Primer, 2021 (arXiv:2109.08668)."""
    return x.to(_compute_dtype(x.dtype)).clamp(min=0).square().to(x.dtype)


def xielu(x: Tensor, alpha_p: Tensor, alpha_n: Tensor, beta: float = 0.5) -> Tensor:
    """Compute the activation whose gradient is linear above zero and an exponential below, with learned slopes (Apertus).

    With a = softplus(alpha_p) and c = beta + softplus(alpha_n):
        a x^2 + beta x                            for x > 0
        c (exp(x) - 1 - x) + beta x               else
    transformers cuts the exponent at -1e-6, by which a value moves by c / 10^6 at most, and its slope between there and zero
    jumps to beta - c: of a million values a few lie there, and layouts that round otherwise differ by whole gradients.

    Args: x [..., f]; alpha_p, alpha_n, one element each, raw.
    Returns: [..., f] in x.dtype.
    Source: Huang and Schlag, Deriving Activation Functions Using Integration, 2024 (arXiv:2411.13010).
    """
    wide = x.to(_compute_dtype(x.dtype))
    slope_p = torch.nn.functional.softplus(alpha_p.to(wide.dtype))
    slope_n = beta + torch.nn.functional.softplus(alpha_n.to(wide.dtype))
    positive = slope_p * wide.square()
    negative = slope_n * (torch.expm1(wide.clamp(max=0)) - wide)
    return (torch.where(wide > 0, positive, negative) + beta * wide).to(x.dtype)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Bound values smoothly to (-cap, cap): cap * tanh(x / cap), elementwise.

    Args: x [...]; cap > 0.
    Returns: [...] in x.dtype.
    Source: Gemma Team, Gemma 2, 2024 (arXiv:2408.00118), section 2.
    """
    return (cap * torch.tanh(x.to(_compute_dtype(x.dtype)) / cap)).to(x.dtype)


def document_ids(document_starts: Tensor, batch: int, seq_length: int) -> Tensor:
    """Return the number of the document that each position belongs to, counted through all rows of a micro batch.

    Args: document_starts, integers [documents + 1], ascending: the first token of every document when the rows lie one
        after the other, and last b * s. A row begins with a document of its own, so every multiple of s is in it.
    Returns: [b, s], from 0 on, of the dtype of document_starts.
    """
    positions = torch.arange(batch * seq_length, dtype=document_starts.dtype, device=document_starts.device)
    started = torch.searchsorted(document_starts, positions, right=True, out_int32=document_starts.dtype == torch.int32)
    return (started - 1).view(batch, seq_length)


def causal_grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None = None,
    document_starts: Tensor | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Compute causal attention with grouped queries, the full [q, s] score matrix in memory.

    Query heads are grouped in blocks: head j reads key/value head j // (n / g). g = n is multi-head attention, g = 1
    multi-query. With document_starts a position sees its own document alone.

    Args: query [q, b, n, d], those of the last q of s positions; key, value [s, b, g, d], g dividing n; softmax_scale
        multiplies the scores, 1/sqrt(d) if None; document_starts as in document_ids, of all s positions; window, how many
        positions a position sees at most, itself included (transformers' sliding_window); soft_cap bounds the scaled scores,
        before the mask, as the function of that name.
    Returns: [q, b, n * d] in query.dtype, heads in order.
    Source: Vaswani et al., 2017 (arXiv:1706.03762); groups: Ainslie et al., GQA, 2023 (arXiv:2305.13245); window: Beltagy
        et al., Longformer, 2020 (arXiv:2004.05150).
    """
    num_queries, batch, num_heads, head_size = query.shape
    seq_length, num_groups = key.shape[0], key.shape[2]
    first = seq_length - num_queries  # position of the first query
    assert first >= 0, f"queries ({num_queries}) must not outnumber keys ({seq_length})"
    assert num_heads % num_groups == 0, f"query heads ({num_heads}) must be a multiple of groups ({num_groups})"
    scale = head_size**-0.5 if softmax_scale is None else softmax_scale
    compute = _compute_dtype(query.dtype)
    # A dimension of its own for the heads of a group (r = n / g), so that keys and values broadcast over it.
    grouped = query.to(compute).view(num_queries, batch, num_groups, num_heads // num_groups, head_size)
    scores = torch.einsum("qbgrd,sbgd->bgrqs", grouped, key.to(compute)) * scale
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    everything = torch.ones(num_queries, seq_length, dtype=torch.bool, device=query.device)
    unseen = everything.triu(diagonal=first + 1)
    if window is not None:
        assert window >= 1, f"window ({window}) must be at least 1: a position sees itself"
        unseen = unseen | everything.tril(diagonal=first - window)
    if document_starts is not None:
        ids = document_ids(document_starts, batch, seq_length)
        unseen = (unseen | (ids[:, first:, None] != ids[:, None, :]))[:, None, None]  # [b, 1, 1, q, s]
    probabilities = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1)
    context = torch.einsum("bgrqs,sbgd->qbgrd", probabilities, value.to(compute))
    return context.reshape(num_queries, batch, num_heads * head_size).to(query.dtype)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log likelihood of each label, in nats: logsumexp(logits) - logits[label].

    Args: logits [..., v]; labels [...], integers in [0, v).
    Returns: [...], not averaged, fp32 whatever the dtype of the logits (fp64 for fp64).
    """
    assert labels.shape == logits.shape[:-1], f"labels {tuple(labels.shape)} must fit logits {tuple(logits.shape)}"
    wide = logits.to(_compute_dtype(logits.dtype))
    chosen = wide.gather(-1, labels.unsqueeze(-1)).squeeze(-1)  # [...]
    return wide.logsumexp(dim=-1) - chosen


def z_loss(logits: Tensor) -> Tensor:
    """Return logsumexp(logits)^2, which a loss adds with a small factor to keep the softmax's normaliser near 1.

    Args: logits [..., v].
    Returns: [...], not averaged, fp32 whatever the dtype of the logits (fp64 for fp64).
    Source: Chowdhery et al., PaLM, 2022 (arXiv:2204.02311), section 5.
    """
    return logits.to(_compute_dtype(logits.dtype)).logsumexp(dim=-1).square()


@torch.no_grad()
def adamw(
    main: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    update: int,
    clip: Tensor | None = None,
    copy: Tensor | None = None,
) -> None:
    """Make one update of AdamW in place: the weights, both moments, and the copy of the weights in another dtype.

    Args: main, exp_avg, exp_avg_sq, gradient [...]; update: which one this is, from 1 on; clip: what the gradient is multiplied
        by, one number, None for one; copy [...], None for no copy.
    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019 (arXiv:1711.05101).
    """
    clipped = gradient.to(main.dtype) * (1.0 if clip is None else clip)
    exp_avg.mul_(betas[0]).add_(clipped, alpha=1 - betas[0])
    exp_avg_sq.mul_(betas[1]).addcmul_(clipped, clipped, value=1 - betas[1])
    first, second = exp_avg / (1 - betas[0] ** update), exp_avg_sq / (1 - betas[1] ** update)
    main.mul_(1 - learning_rate * weight_decay).sub_(learning_rate * first / (second.sqrt() + eps))
    if copy is not None:
        copy.copy_(main)
