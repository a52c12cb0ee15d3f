"""What documents have to do with a step's time, in words: masks that keep them apart, and how long they are taken to be."""

from dataclasses import replace

from pretrain.plan.estimate import StepEstimate, estimate_step
from pretrain.plan.machine import MachineConfig
from pretrain.plan.shapes import attended_tokens


def document_lines(estimate: StepEstimate, machine: MachineConfig) -> list[str]:
    """Return what a plan assumes of documents, and what masks would save; nothing where nobody asked and nothing depends on it."""
    data, tokens = estimate.run.data, estimate.document_tokens
    lines = []
    if data.document_mask and estimate.run.model.attention_backend == "sdpa":
        lines.append(
            "model.attention_backend=sdpa computes the whole sample under the masks between documents, and so it is counted; "
            "model.attention_backend=auto takes a kernel that leaves out what is masked"
        )
    elif data.document_mask and tokens is None:
        lines.append(
            f"data.document_mask keeps documents apart, and how long they are is not known: attention is counted over all "
            f"{data.seq_length:,} tokens of a sample, which is the most; --document-tokens 1000 counts it for documents of 1,000"
        )
    elif data.document_mask:
        lines.append(
            f"attention is counted for documents of {attended_tokens(estimate.run, tokens):,} tokens, all alike, at the same "
            "operations a second: documents of several lengths with that mean have more, and short ones are slower for each"
        )
    elif tokens is not None:
        lines.append(_with_masks(estimate, machine, tokens))
    if data.packing == "best_fit":
        lines.append("the padding of packed rows counts as tokens: fanal show says its share where the shards are")
    return lines


def _with_masks(estimate: StepEstimate, machine: MachineConfig, tokens: int) -> str:
    """Return what layout 1 would take with masks, which change what is learned and so are nobody's choice but the user's."""
    masked = replace(estimate.run, data=replace(estimate.run.data, document_mask=True))
    other = estimate_step(masked, machine, estimate.num_gpus, document_tokens=tokens)
    return (
        f"--document-tokens {tokens} changes nothing without masks between documents; with data.document_mask=true, which changes "
        f"what is learned, layout 1 would take {other.step_s:.3f} s a step, {estimate.step_s / other.step_s:.2f} times as fast"
    )
