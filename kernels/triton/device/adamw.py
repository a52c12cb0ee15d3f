"""AdamW in Triton over a flat shard: one pass, which also writes the copy that the forward reads.

    g = clip * gradient
    m = m + (1 - beta1) (g - m)
    v = beta2 v + (1 - beta2) g^2
    p = (1 - lr decay) p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
Loshchilov and Hutter, 2019 (arXiv:1711.05101), in the order of torch.optim.AdamW.
"""

import triton
import triton.language as tl


@triton.jit
def step(
    main_ptr,  # [n], fp32
    m_ptr,  # [n], fp32
    v_ptr,  # [n], fp32
    gradient_ptr,  # [n]
    copy_ptr,  # [n], or None
    clip_ptr,  # one number of fp32 on the device, or None
    n,
    kept,  # 1 - lr decay
    towards,  # 1 - beta1
    beta2,
    towards_square,  # 1 - beta2
    rate,  # lr / (1 - beta1^t)
    root_correction,  # sqrt(1 - beta2^t)
    eps,
    CLIP: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    g = tl.load(gradient_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if CLIP:
        g *= tl.load(clip_ptr)
    p = tl.load(main_ptr + at, mask=inside, other=0.0)
    m = tl.load(m_ptr + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + at, mask=inside, other=0.0)
    m += towards * (g - m)
    v = beta2 * v + towards_square * (g * g)
    p = kept * p - rate * (m / (tl.sqrt_rn(v) / root_correction + eps))
    tl.store(main_ptr + at, p, mask=inside)
    tl.store(m_ptr + at, m, mask=inside)
    tl.store(v_ptr + at, v, mask=inside)
    if COPY:
        tl.store(copy_ptr + at, p.to(copy_ptr.dtype.element_ty), mask=inside)
