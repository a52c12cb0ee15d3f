"""The data of a run's history: its shards, opened only if they still are what it was trained on."""

from fanal.errors import UserError
from pretrain.data.position import position_of
from pretrain.data.read import TrainData
from pretrain.data.same_data import data_differences
from pretrain.data.sources import open_sources
from pretrain.history.history import History
from pretrain.history.moved import refuse_missing
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.verify import deep_problems

MOST_NAMED = 5
"""Differences that a message names."""


def open_history_data(history: History, *, deep: bool = False) -> TrainData:
    """Open the shards of a run, from its last configuration, which gives every sample up to there as those before it did: a run
    only resumes if that is so.

    Args: deep: whether every byte of them is compared with the manifests too.
    Raises: UserError naming a shard that is not there, or each that the run was not trained on; DamagedShardError for bytes that
        changed.
    """
    run = history.segments[-1].config
    refuse_missing(history)
    data = TrainData(open_sources(run), run.data)
    differences = [*_from_checkpoint(history, data), *_from_start(history, data)]
    if differences:
        named = "; ".join(dict.fromkeys(differences[:MOST_NAMED]))
        more = f"; and {len(differences) - MOST_NAMED:,} more" if len(differences) > MOST_NAMED else ""
        raise UserError(
            f"the data of {history.run_dir} are no longer those that it was trained on: {named}{more}. Put those shards back "
            "under these prefixes; what was trained on cannot be told from others"
        )
    if deep:
        for source in data.sources.train:
            for problem in deep_problems(source.shard):
                raise DamagedShardError(problem)
    return data


def _from_checkpoint(history: History, data: TrainData) -> list[str]:
    """What differs from the position in the newest checkpoint."""
    saved = history.newest.position if history.newest is not None else None
    if saved is None:
        return []
    now = position_of(
        data, consumed_samples=saved.consumed_samples, consumed_hash=saved.consumed_hash, last_step=saved.last_step
    )
    return data_differences(saved, now)


def _from_start(history: History, data: TrainData) -> list[str]:
    """What differs from the shards of the last start."""
    if not history.starts:
        return []
    start = history.starts[-1]
    found = [
        f"the training sources are {len(data.sources.train)}, and start {start.number} had {len(start.sources)}"
    ] * (len(start.sources) != len(data.sources.train))
    for was, source in zip(start.sources, data.sources.train, strict=False):
        manifest = source.shard.manifest
        if (was.identity, was.train_tokens) != (source.identity, source.order.num_tokens):
            found.append(
                f"the tokens of shard {source.shard.prefix} are not those of start {start.number} (then {was.train_tokens:,} to "
                f"train on with sha256 {was.identity[:12]}, now {source.order.num_tokens:,} with {source.identity[:12]})"
            )
        elif was.idx_sha256 not in (None, manifest.idx_sha256):
            found.append(
                f"the index of shard {source.shard.prefix} cuts its tokens into other documents than at start {start.number} "
                f"(then sha256 {str(was.idx_sha256)[:12]}, now {manifest.idx_sha256[:12]})"
            )
    return found
