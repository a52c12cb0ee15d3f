"""The answer to a question about a run, as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from fanal.errors import UserError
from pretrain.history.data import open_history_data
from pretrain.history.history import History, history_of
from pretrain.history.moved import moved_of, with_moved
from pretrain.trace.show import document_lines, json_text, on_lines, spike_lines, step_lines
from pretrain.trace.spikes import ListedSpike, listed_spikes
from pretrain.trace.step import Wanted, trace_step


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, as the command line has it."""

    run_dir: str
    step: int | None = None
    rank: int | None = None
    sample: int | None = None
    document: str | None = None
    spikes: bool = False
    text: str | None = None
    """A text that is sought; with a step or a sample, empty, for the text of its documents."""
    regex: str | None = None
    deep: bool = False
    as_json: bool = False
    moved: Sequence[str] = ()
    """OLD=NEW of paths of shards and tokenizers that lie elsewhere now."""


def answer(question: Question) -> str:
    """Return lines, or JSON. Raises: UserError; DamageError."""
    about_documents = question.step is None and question.sample is None and not question.spikes
    moved = moved_of(question.moved)
    history = with_moved(history_of(question.run_dir, chain=about_documents), moved)
    if about_documents:
        return _of_documents(history, question)
    spikes = listed_spikes(history.run_dir)
    step = _step(history, question)
    if step is None:
        if question.as_json:
            return json_text(question.run_dir, {"spikes": spikes})
        return on_lines(spike_lines(question.run_dir, spikes))
    of_step = [spike for spike in spikes if spike.step == step]
    if question.spikes and not of_step:
        raise UserError(_not_listed(question, spikes))
    data = open_history_data(history, deep=question.deep)
    wanted = Wanted(step=step, rank=question.rank, sample=question.sample, with_text=question.text is not None)
    found = trace_step(history, data, wanted)
    if question.as_json:
        return json_text(question.run_dir, {"step": found, "spikes": of_step})
    return on_lines(step_lines(question.run_dir, found, of_step))


def _of_documents(history: History, question: Question) -> str:
    from pretrain.trace.document import trace_document, trace_text  # the search, which a step waits for in vain

    if question.document is not None:
        documents = trace_document(history, question.document, deep=question.deep)
    else:
        documents = trace_text(history, text=question.text, regex=question.regex, deep=question.deep)
    if question.as_json:
        return json_text(question.run_dir, {"documents": documents})
    if not documents:
        return f"no document of {question.run_dir} holds it"
    return on_lines(line for document in documents for line in document_lines(document))


def _step(history: History, question: Question) -> int | None:
    """Return the step that is asked for; None if only the list of spikes is. Raises: UserError."""
    if question.step is not None or question.sample is None:
        return question.step
    step = history.step_of_sample(question.sample)
    if step is None:
        raise UserError(
            f"--sample ({question.sample}) must be from 0 to {history.end_sample - 1}, the last sample of {history.run_dir}, and "
            "of a step that its files tell; --sample 0 works"
        )
    return step


def _not_listed(question: Question, spikes: Sequence[ListedSpike]) -> str:
    works = f"--step {spikes[0].step} works" if spikes else f"--step {question.step} without --spikes works"
    return f"--step ({question.step}) must be one that spikes.jsonl of {question.run_dir} lists; {works}"
