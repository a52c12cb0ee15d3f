"""Checkpoints that a run has at one time: how many, and the bytes and files (inodes) of each. Pure arithmetic."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from fanal.checkpoint_files import files_of_a_rank, inodes, inodes_while_written, texts_of_a_checkpoint
from fanal.free_space import Free
from pretrain.config.schema import RunConfig
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states


def checkpoint_inodes(run: RunConfig, *, num_ranks: int) -> tuple[int, int]:
    """Return the exact number of files and folders of one checkpoint of a run, and the most that it has while it is written."""
    size = checkpoint_bytes(run.model, num_states=num_states(run.optim))
    num_files = files_of_a_rank(size, num_ranks)
    num_texts = len(texts_of_a_checkpoint(has_origin=run.checkpoint.init_from is not None))
    return (
        inodes(num_ranks=num_ranks, num_files=num_files, num_texts=num_texts),
        inodes_while_written(num_ranks=num_ranks, num_files=num_files, num_texts=num_texts),
    )


def room_for(free: Free, *, size: int, files: int, notes: int) -> int:
    """Return the number of checkpoints that fit into what is free. Args: notes: files that only the one being written has."""
    by_bytes = free.num_bytes // size
    return by_bytes if free.num_files is None else min(by_bytes, max(0, free.num_files - notes) // files)


def what_fits(run: RunConfig, there: Sequence[int], fits: int) -> str:
    """Return settings that keep so few checkpoints that ``fits`` more have room."""
    for every in dict.fromkeys((run.checkpoint.keep_every_steps, None)):

        def more(keep_last: int, every: int | None = every) -> int:
            kept = replace(run.checkpoint, keep_last=keep_last, keep_every_steps=every)
            return most_at_once(replace(run, checkpoint=kept), there) - len(there)

        # More are kept, more room is needed: the largest number that fits.
        largest = bisect_right(range(1, most_at_once(run, there) + 1), fits, key=more)
        if largest:
            changed = "" if every == run.checkpoint.keep_every_steps else " with checkpoint.keep_every_steps=null"
            return f"checkpoint.keep_last={largest}{changed} fits"
    return "not even checkpoint.keep_last=1 fits; make room, or choose a run_dir elsewhere"


def most_at_once(run: RunConfig, there: Sequence[int]) -> int:
    """Return the number of checkpoints in the run folder when there are most: those kept, and one being written.

    Those that a run writes when it is told to stop count only once they exist. A step is never taken one by one: a config may
    ask for more of them than could be counted.
    """
    keep, every = run.checkpoint.keep_last, run.checkpoint.keep_every_steps
    old, last = sorted(there), run.train.train_steps
    regular = saved_steps(run, after=max(there, default=0))
    ends = last > max(there, default=0)  # with a checkpoint of its own
    written = len(old) + _length(regular) + ends
    if keep is None or written <= keep + 1 or not ends:
        return written
    # Kept for ever are those that were saved before the newest ones; while the last is written, keep + 1 are there beside them.
    number = written - keep - 1
    for_ever = 0
    if every is not None:
        for_ever = sum(step % every == 0 for step in old[:number])
        left = max(0, number - len(old))
        for_ever += _multiples(range(regular.start, regular.start + left * regular.step, regular.step), every)
    first = len(old) + 1  # there are as many when the next one is written, however few are kept from then on
    return max(first, for_ever + keep + 1)


def saved_steps(run: RunConfig, *, after: int) -> range:
    """Return the steps at which the run will still write a checkpoint, but for its last step, where it writes one, too."""
    last, interval = run.train.train_steps, run.checkpoint.interval
    if interval is None:
        return range(0)
    return range(after // interval * interval + interval, last, interval)


def _length(steps: range) -> int:
    """len() takes no more than 63 bits; so many steps a config may ask for, and no more."""
    return max(0, -(-(steps.stop - steps.start) // steps.step))


def _multiples(steps: range, factor: int) -> int:
    """Return how many of these steps, multiples of their distance, are multiples of ``factor``."""
    common = math.lcm(steps.step, factor)
    return max(0, (steps.stop - 1) // common - (steps.start - 1) // common) if steps else 0
