"""Keys of ``objective``: which tokens are predicted, and what a sample becomes before it is trained on. docs/objectives.md has the
formulas."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class MaskedSpanConfig:
    """Tokens that are read and not predicted: from a start token to the next end token, both included."""

    start_token: str = MISSING
    """Token that begins a span, as the vocabulary spells it."""
    end_token: str = MISSING
    """Token that ends it; another one than the start. A document's end ends it too."""


@dataclass(frozen=True, kw_only=True)
class GoldfishConfig:
    """Goldfish loss: a fixed share of tokens is never predicted, chosen by the tokens before them (Hans et al., 2024)."""

    k: int = 50
    """One token in k is left out; 50 is Apertus's, 4 the paper's strongest."""
    h: int = 50
    """Tokens before a token that decide about it; the first h of a sample always count."""


@dataclass(frozen=True, kw_only=True)
class FillInTheMiddleConfig:
    """Fill-in-the-middle: documents are read as prefix, suffix and middle (Bavarian et al., 2022)."""

    rate: float = 0.5
    """Share of the documents of samples, cut where a sample cuts them, that are rearranged."""
    spm_rate: float = 0.5
    """Share of these that give the suffix first (SPM); the others give the prefix first (PSM)."""
    prefix_token: str = "<fim_prefix>"
    """Token in front of the prefix, as the vocabulary spells it."""
    suffix_token: str = "<fim_suffix>"
    """Token in front of the suffix."""
    middle_token: str = "<fim_middle>"
    """Token in front of the middle."""


@dataclass(frozen=True, kw_only=True)
class SpanCorruptionConfig:
    """Span corruption: sentinels stand for spans, which follow behind the text (Raffel et al., 2020; Tay et al., 2022)."""

    rate: float = 0.5
    """Share of the documents of samples, cut where a sample cuts them, that are corrupted."""
    noise_density: float = 0.15
    """Share of a document's tokens that are in spans."""
    mean_span_length: float = 3.0
    """Tokens of a span, on average."""
    sentinel_token: str = "<extra_id_{}>"
    """Spelling of the sentinels; their number, from 0, stands in the place of {}."""
    num_sentinels: int = 100
    """Sentinels that the tokenizer has: at least as many as a sample can have spans."""
    loss_on_inputs: bool = False
    """True predicts the text around the spans too; False only what follows it, as an encoder-decoder would."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which tokens are predicted, and what samples become. A run keeps it to its end."""

    eod_mask_loss: bool = False
    """True does not predict the token behind one that ends a document (Megatron's --eod-mask-loss), in validation neither."""
    mask_between: list[MaskedSpanConfig] = field(default_factory=list)
    """Spans that are not predicted, such as the turns of a user, in validation neither."""
    goldfish: GoldfishConfig | None = None
    """Goldfish loss in training; null predicts every token."""
    fill_in_the_middle: FillInTheMiddleConfig | None = None
    """Fill-in-the-middle in training; null leaves documents as they are."""
    span_corruption: SpanCorruptionConfig | None = None
    """Span corruption in training; null leaves documents as they are."""
