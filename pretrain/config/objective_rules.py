"""Rules of ``objective``. Each error names the key, its value, the rule and a value that works."""

from fractions import Fraction

from fanal.errors import UserError
from pretrain.config.derive import num_spans
from pretrain.config.schema import FillInTheMiddleConfig, GoldfishConfig, ObjectiveConfig, SpanCorruptionConfig

LARGEST_K = 2**31 - 1
MOST_SENTINELS = 10_000


def check_objective(objective: ObjectiveConfig, seq_length: int) -> None:
    """Refuse objectives that no sample can have, or that contradict one another.

    What the tokenizer must have for them is checked when it is opened (pretrain/data/objectives).
    Raises: UserError naming the first broken rule.
    """
    for number, span in enumerate(objective.mask_between):
        if span.start_token == span.end_token:
            raise UserError(
                f"objective.mask_between[{number}].end_token ({span.end_token!r}) must be another token than its start_token; "
                "objective.mask_between=[] works"
            )
    if objective.goldfish is not None:
        _check_goldfish(objective.goldfish, seq_length)
    if objective.fill_in_the_middle is not None:
        _check_fill_in_the_middle(objective.fill_in_the_middle)
    if objective.span_corruption is not None:
        _check_span_corruption(objective.span_corruption, seq_length)
    _check_together(objective)


def _check_goldfish(goldfish: GoldfishConfig, seq_length: int) -> None:
    if not 2 <= goldfish.k <= LARGEST_K:
        raise UserError(
            f"objective.goldfish.k ({goldfish.k}) must be from 2, since one token in k is left out, to {LARGEST_K}; 50 works"
        )
    if not 1 <= goldfish.h <= seq_length:
        raise UserError(
            f"objective.goldfish.h ({goldfish.h}) must be from 1 to data.seq_length ({seq_length}), the most tokens that stand "
            f"before another; {min(50, seq_length)} works"
        )


def _check_fill_in_the_middle(config: FillInTheMiddleConfig) -> None:
    _check_rate("objective.fill_in_the_middle.rate", config.rate, "objective.fill_in_the_middle=null rearranges none")
    if not 0 <= config.spm_rate <= 1:
        raise UserError(
            f"objective.fill_in_the_middle.spm_rate ({config.spm_rate}) must be a share, from 0 to 1; 0.5 works"
        )
    names = (config.prefix_token, config.suffix_token, config.middle_token)
    if len(set(names)) < len(names):
        raise UserError(
            f"objective.fill_in_the_middle has prefix_token {names[0]!r}, suffix_token {names[1]!r} and middle_token {names[2]!r}, "
            "and these must be three different tokens; <fim_prefix>, <fim_suffix> and <fim_middle> are usual"
        )


def _check_span_corruption(config: SpanCorruptionConfig, seq_length: int) -> None:
    name = "objective.span_corruption"
    _check_rate(f"{name}.rate", config.rate, f"{name}=null corrupts none")
    if not 0 < config.noise_density < 1:
        raise UserError(f"{name}.noise_density ({config.noise_density}) must be above 0 and below 1; 0.15 works")
    if not 1 <= config.mean_span_length <= seq_length:
        raise UserError(
            f"{name}.mean_span_length ({config.mean_span_length}) must be from 1 to data.seq_length ({seq_length}) tokens; "
            f"{min(3, seq_length)} works"
        )
    if not 1 <= config.num_sentinels <= MOST_SENTINELS:
        raise UserError(
            f"{name}.num_sentinels ({config.num_sentinels}) must be from 1 to {MOST_SENTINELS}, as many as the tokenizer has; "
            "100 works"
        )
    if config.sentinel_token.count("{}") != 1:
        raise UserError(
            f"{name}.sentinel_token ({config.sentinel_token!r}) must hold {{}} once, where the number of a sentinel stands; "
            "<extra_id_{}> works"
        )
    needed = num_spans(config, seq_length + 1)
    if needed > config.num_sentinels:
        raise UserError(
            f"{name}.num_sentinels ({config.num_sentinels}) must be at least {needed}, the spans of a sample of data.seq_length + "
            f"1 = {seq_length + 1} tokens with mean_span_length {config.mean_span_length} and noise_density "
            f"{config.noise_density}; {name}.num_sentinels={needed} works if the tokenizer has them"
        )


def _check_rate(name: str, rate: float, none: str) -> None:
    if not 0 < rate <= 1:
        raise UserError(f"{name} ({rate}) must be a share, above 0 and at most 1; {none}, and 0.5 works")


def _check_together(objective: ObjectiveConfig) -> None:
    middle, spans = objective.fill_in_the_middle, objective.span_corruption
    if middle is not None and spans is not None and Fraction(middle.rate) + Fraction(spans.rate) > 1:
        raise UserError(
            f"objective.fill_in_the_middle.rate ({middle.rate}) and objective.span_corruption.rate ({spans.rate}) are shares of "
            "the same documents and must add up to at most 1; objective.fill_in_the_middle.rate=0.5 and "
            "objective.span_corruption.rate=0.5 work"
        )
    if objective.mask_between and (middle is not None or spans is not None):
        name = "fill_in_the_middle" if middle is not None else "span_corruption"
        raise UserError(
            f"objective.mask_between ({len(objective.mask_between)} pairs) must be empty with objective.{name}, which moves tokens "
            f"out of their spans; objective.mask_between=[] works, or objective.{name}=null"
        )
