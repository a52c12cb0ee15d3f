"""The loss one micro batch contributes: a sum over tokens and their number, so that every token weighs alike."""

import torch


def masked_loss(loss_mask: torch.Tensor, per_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What megatron's schedule expects under calculate_per_token_loss.

    Args:
        loss_mask: float [b, s], 1 where a token counts.
        per_token: cross entropy [b, s].
    Returns:
        the sum to differentiate; the number of tokens (int32, megatron sums it over the batch); and the report,
        float64 [2] of (sum, tokens). The report is a copy: the schedule divides what it differentiates in place.
    """
    total = (per_token.float() * loss_mask).sum()
    tokens = loss_mask.sum()
    report = torch.stack((total.detach(), tokens)).double()
    return total, tokens.to(torch.int32), report
