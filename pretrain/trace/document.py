"""From tokens of a document to the steps that train on them, past and to come, over all phases of a chain of runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.data.read import TrainData
from pretrain.data.whereabouts import samples_over
from pretrain.history.data import open_history_data
from pretrain.history.history import History
from pretrain.trace.find import Document, Found, find_documents, find_text, not_found
from pretrain.trace.parts import pieces_at
from tokenizer.search.hits import Hit


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A sample that holds tokens that are asked for."""

    sample: int
    step: int | None
    """Step that reads it; None where no file tells."""
    pass_number: int
    """Which pass over the source it belongs to, from 1."""
    offset: int
    """Tokens of the document before the first of those that the sample holds."""
    num_tokens: int
    """Tokens that are asked for in the sample."""
    is_trained: bool
    """Whether the run is known to have come so far; else it will."""
    is_saved: bool
    """Whether the newest checkpoint was trained on it."""


@dataclass(frozen=True, kw_only=True)
class PhaseTrace:
    """What one run of the chain does with these tokens."""

    run_dir: str
    saved_to: int
    """Step of its newest checkpoint; 0 if it has none."""
    trained_to: int
    """Last step that it is known to have trained."""
    planned_to: int
    """Last step that the run trains; of an earlier run, that the next one went on from."""
    held_out: bool
    """Whether some of them are held out for validation there."""
    readings: tuple[Reading, ...]
    """By rising sample."""


@dataclass(frozen=True, kw_only=True)
class DocumentTrace:
    """A document, or a text in it, and all that is known of when it was and will be trained on."""

    document: Document
    hit: Hit | None
    """The text that was found; None where the complete document is asked for."""
    phases: tuple[PhaseTrace, ...]
    """Of the chain, oldest first."""
    unknown_before: str | None
    """The checkpoint that the oldest of them started from, if its run is not there any more; None if nothing was before."""


def trace_document(history: History, name: str, *, deep: bool = False) -> list[DocumentTrace]:
    """Find a document by PREFIX:NUMBER or by its id, and work out which samples of which steps hold it. More than one have the
    same id where several shards say so.

    Raises: UserError if no shard of the chain has it; as ``open_history_data``.
    """
    opened = _opened(history, deep=deep)
    found = _traced(history, opened, [list(find_documents(data, name)) for _, data in opened])
    if not found:
        raise not_found(opened[-1][1], name)
    return found


def trace_text(
    history: History, *, text: str | None = None, regex: str | None = None, deep: bool = False
) -> list[DocumentTrace]:
    """Find every occurrence of a text, or of a regular expression, and work out which samples of which steps hold it.

    Raises: as ``open_history_data`` and ``tokenizer.search.find.Search``.
    """
    opened = _opened(history, deep=deep)
    return _traced(history, opened, [list(find_text(data, text=text, regex=regex)) for _, data in opened])


def _opened(history: History, *, deep: bool) -> list[tuple[History, TrainData]]:
    return [(phase, open_history_data(phase, deep=deep)) for phase in history.phases]


def _traced(
    history: History, opened: Sequence[tuple[History, TrainData]], found: Sequence[Sequence[Found]]
) -> list[DocumentTrace]:
    """Follow what was found in each phase through all of them; a shard that several phases read counts once."""
    wanted = {}
    for of_phase in reversed(found):  # named as the last run names its shard
        for one in of_phase:
            wanted.setdefault((one.document.identity, one.first_token, one.end_token), one)
    return [
        DocumentTrace(
            document=one.document,
            hit=one.hit,
            phases=tuple(_in_phase(phase, data, one) for phase, data in opened),
            unknown_before=None if history.missing is None else history.missing.checkpoint,
        )
        for one in wanted.values()
    ]


def _in_phase(history: History, data: TrainData, found: Found) -> PhaseTrace:
    identity = found.document.identity
    number = next((at for at, source in enumerate(data.sources.train) if source.identity == identity), None)
    return PhaseTrace(
        run_dir=str(history.run_dir),
        saved_to=min(history.saved_to, history.planned_to),
        trained_to=history.trained_to,
        planned_to=history.planned_to,
        held_out=any(
            source.identity == identity and source.first_token < found.end_token for source in data.sources.validation
        ),
        readings=() if number is None else tuple(_readings(history, data, number, found)),
    )


def _readings(history: History, data: TrainData, number: int, found: Found) -> list[Reading]:
    source = data.sources.train[number]
    # What lies behind the tokens to train on is its validation part.
    end_token = min(found.end_token, source.order.num_tokens)
    if end_token <= found.first_token:
        return []
    samples = samples_over(
        data, number, first_token=found.first_token, end_token=end_token, end_sample=history.end_sample
    )
    sources, draws = data.mixture.locate(samples)
    passes = data.orders.epochs(sources, draws) + 1
    places = data.orders.start_tokens(sources, draws)
    trained, saved = _trained_samples(history), _saved_samples(history)
    readings = []
    for sample, place, pass_number in zip(samples.tolist(), places.tolist(), passes.tolist(), strict=True):
        step = history.step_of_sample(sample)
        for _, start, length in pieces_at(source, place, data.config.seq_length):
            first, end = max(start, found.first_token), min(start + length, end_token)
            if first < end:
                readings.append(
                    Reading(
                        sample=sample,
                        step=step,
                        pass_number=pass_number,
                        offset=first - found.document.first_token,
                        num_tokens=end - first,
                        is_trained=sample < trained,
                        is_saved=sample < saved,
                    )
                )
    return readings


def _trained_samples(history: History) -> int:
    """Samples of the steps that the run is known to have trained."""
    if not history.trained_to:
        return 0
    segment = history.segment_of_step(history.trained_to)
    return segment.samples_of_step(history.trained_to).stop if segment.has_steps else segment.end_sample


def _saved_samples(history: History) -> int:
    if history.newest is None:
        return 0
    return min(history.newest.standing.consumed_samples, history.end_sample)
