"""What a model card says of the objectives of a run: which tokens were predicted, and what documents became."""

from pretrain.config.schema import ObjectiveConfig
from pretrain.convert.exporting.markdown import as_text


def objective_lines(objective: ObjectiveConfig) -> list[str]:
    """Return a sentence for each objective that was on, as Markdown; none where every token was predicted."""
    lines = []
    goldfish, middle, spans = objective.goldfish, objective.fill_in_the_middle, objective.span_corruption
    if middle is not None:
        marks = ", ".join(as_text(mark) for mark in (middle.prefix_token, middle.suffix_token, middle.middle_token))
        lines.append(
            f"Fill-in-the-middle: {100 * middle.rate:g}% of documents were read as prefix, suffix and middle, "
            f"{100 * middle.spm_rate:g}% of these with the suffix first; the marks are {marks}."
        )
    if spans is not None:
        first, last = (as_text(spans.sentinel_token.replace("{}", str(n))) for n in (0, spans.num_sentinels - 1))
        lines.append(
            f"Span corruption: in {100 * spans.rate:g}% of documents, spans of {spans.mean_span_length:g} tokens on average, "
            f"{100 * spans.noise_density:g}% of the text, were replaced by sentinels ({first} to {last}) and followed behind it."
        )
    if objective.eod_mask_loss:
        lines.append("The token behind the end of a document was not predicted.")
    for span in objective.mask_between:
        lines.append(
            f"Tokens from {as_text(span.start_token)} to {as_text(span.end_token)} were read and not predicted."
        )
    if goldfish is not None:
        lines.append(
            f"Goldfish loss: one token in {goldfish.k} was not predicted, chosen by the {goldfish.h} tokens before it."
        )
    return lines
