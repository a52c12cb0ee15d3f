"""The loss of one micro batch: a sum over tokens and their number, so that every token has the same weight."""

import torch


def masked_loss(
    loss_mask: torch.Tensor, domain_ids: torch.Tensor, num_domains: int, z_loss_weight: float, figures: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the sums that megatron's schedule expects under calculate_per_token_loss.

    What is trained on is the cross entropy and, by its weight, the z-loss: the square of the logarithm of the softmax's
    denominator (Chowdhery et al., PaLM, 2022, arXiv:2204.02311). Reported is each by itself.

    Args:
        loss_mask: float [b, s], 1 where a token counts.
        domain_ids: int64 [b], each in [0, num_domains).
        figures: [2, b, s], as Decoder.compute_language_model_loss returns: cross entropy, and the logarithm of the denominator.
    Returns:
        the sum to differentiate; the number of tokens (int32, megatron sums it over the batch); and the report, float64
        [num_domains, 3] of (sum of cross entropies, tokens, sum of z-losses) of each domain's rows. The report is a copy: the
        schedule divides what it differentiates in place.
    """
    per_token, log_denominator = figures.float()
    counted, z_loss = per_token * loss_mask, log_denominator.square() * loss_mask
    rows = torch.stack(
        (counted.detach().sum(dim=1), loss_mask.sum(dim=1), z_loss.detach().sum(dim=1)), dim=1
    ).double()  # [b, 3]
    numbers = torch.arange(num_domains, device=domain_ids.device)
    of_domain = (domain_ids == numbers[:, None])[..., None]  # [num_domains, b, 1]
    # where, not a product: a row that is not finite stays out of the other domains' sums.
    report = torch.where(of_domain, rows, 0.0).sum(dim=1)
    return counted.sum() + z_loss_weight * z_loss.sum(), loss_mask.sum().to(torch.int32), report
