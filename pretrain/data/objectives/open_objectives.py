"""The objectives of a run, from its keys and its tokenizer. An objective that is off is not there, and costs nothing."""

from fractions import Fraction

import numpy as np

from fanal.errors import UserError
from pretrain.config.schema import FillInTheMiddleConfig, RunConfig, SpanCorruptionConfig
from pretrain.data.objectives.end_of_document import EndOfDocument
from pretrain.data.objectives.fill_in_the_middle import FillInTheMiddle
from pretrain.data.objectives.goldfish import Goldfish
from pretrain.data.objectives.masked_spans import MaskedSpans
from pretrain.data.objectives.named_tokens import NamedTokens
from pretrain.data.objectives.pieces import Chance, objective_key
from pretrain.data.objectives.samples import Objective, Objectives
from pretrain.data.objectives.span_corruption import SpanCorruption
from tokenizer.vocabulary.folder import Tokenizer


def open_objectives(run: RunConfig, tokenizer: Tokenizer) -> Objectives:
    """The objectives of a run. Raises: UserError for a name that no token of the tokenizer has."""
    config, tokens = run.objective, NamedTokens(tokenizer)
    changes: list[Objective] = []
    marks: tuple[int, ...] = ()
    start, key = Fraction(0), objective_key(run.data.seed)
    if config.fill_in_the_middle is not None:
        chance = Chance(key=key, start=start, rate=Fraction(config.fill_in_the_middle.rate))
        middle = _fill_in_the_middle(config.fill_in_the_middle, tokens, chance)
        changes.append(middle)
        marks = (middle.prefix_id, middle.suffix_id, middle.middle_id)
        start += chance.rate
    if config.span_corruption is not None:
        chance = Chance(key=key, start=start, rate=Fraction(config.span_corruption.rate))
        spans = _span_corruption(config.span_corruption, tokens, chance)
        changes.append(spans)
        marks += tuple(spans.sentinel_ids.tolist())
    masks: list[Objective] = [EndOfDocument(tokens.eos_id)] if config.eod_mask_loss else []
    for number, span in enumerate(config.mask_between):
        name = f"objective.mask_between[{number}]"
        masks.append(
            MaskedSpans(
                tokens.id_of(f"{name}.start_token", span.start_token), tokens.id_of(f"{name}.end_token", span.end_token)
            )
        )
    drops: list[Objective] = []
    if config.goldfish is not None:
        drops.append(
            Goldfish(
                k=config.goldfish.k,
                h=config.goldfish.h,
                exempt=tokens.control(marks),
                within_documents=run.data.document_mask,
            )
        )
    return Objectives(
        training=(*changes, *masks, *drops),
        validation=tuple(masks),
        reads_index=bool(changes or config.mask_between),
    )


def _fill_in_the_middle(config: FillInTheMiddleConfig, tokens: NamedTokens, chance: Chance) -> FillInTheMiddle:
    prefix, suffix, middle = (
        tokens.mark_of(f"objective.fill_in_the_middle.{name}", getattr(config, name))
        for name in ("prefix_token", "suffix_token", "middle_token")
    )
    return FillInTheMiddle(
        chance=chance,
        spm_rate=Fraction(config.spm_rate),
        prefix_id=prefix,
        suffix_id=suffix,
        middle_id=middle,
        control=tokens.control(),
    )


def _span_corruption(config: SpanCorruptionConfig, tokens: NamedTokens, chance: Chance) -> SpanCorruption:
    ids = []
    for number in range(config.num_sentinels):
        name = config.sentinel_token.replace("{}", str(number))
        try:
            ids.append(tokens.mark_of("objective.span_corruption.sentinel_token", name))
        except UserError as error:
            if number == 0:
                raise
            raise UserError(
                f"objective.span_corruption.num_sentinels ({config.num_sentinels}) must be at most the sentinels of "
                f"data.tokenizer, and it has no {name}; num_sentinels={number} works where a sample has so few spans"
            ) from error
    return SpanCorruption(chance=chance, config=config, sentinel_ids=np.array(ids, np.int64), control=tokens.control())
