"""The orthogonalization of a matrix by Newton-Schulz iterations, as Muon does it (Jordan et al., 2024)."""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose iteration brings singular values from (0, 1] to about 0.7 to 1.2 in five steps, not exactly to 1 (ibid.)."""


def orthogonalize(matrix: torch.Tensor, *, num_steps: int) -> torch.Tensor:
    """Return about U V^T of a matrix U S V^T, [rows, columns] as it is, in its dtype; zeros for zeros. No device sync.

    A difference of the input grows up to 485-fold, which is 3.4445^5, in directions whose singular values are small.
    """
    a, b, c = COEFFICIENTS
    short = matrix if matrix.size(0) <= matrix.size(1) else matrix.mT
    # The Frobenius norm, which no singular value exceeds; summed in fp32 or better. Only zeros are kept from being divided by zero:
    # a number that is added, such as 1e-7, would count in small gradients.
    norm = torch.linalg.vector_norm(short, dtype=torch.promote_types(short.dtype, torch.float32))
    x = short / norm.clamp(min=1e-30)
    for _ in range(num_steps):
        gram = x @ x.mT
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x if short is matrix else x.mT
