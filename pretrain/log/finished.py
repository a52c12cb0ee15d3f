"""Whether a run is finished, found without torch: to say so takes a second then, and not the start of all its ranks."""

import json
from collections.abc import Iterator
from pathlib import Path

from fanal.errors import FanalError
from fanal.run_folder import CONFIG, DATA, checkpoints_dir, step_name
from fanal.run_progress import newest_metrics, newest_step, standing
from pretrain.checkpoint.disk.manifest import read_small_file
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_step
from pretrain.data.sources import Sources
from pretrain.log.summary import bars_for, summary

MOST_BYTES = 1 << 30
"""Size of a checkpoint up to which one process hashes it as soon as the ranks of a run would."""
THREADS = 4


def is_finished(run: RunConfig, sources: Sources) -> bool:
    """Return whether a start of this run would do nothing but say that it is complete.

    So it is if its last start has noted its end, and the last step's checkpoint has this very config, these sources and every
    byte that was written. In any other case the start itself finds out, and says what differs.
    """
    try:
        last = _last_step(run)
        return newest_step(Path(run.run_dir)) == last and _is_unchanged(run, sources, last)
    except (FanalError, OSError, ValueError, LookupError, TypeError):
        return False


def finished_lines(run: RunConfig, *, encoding: str | None) -> Iterator[str]:
    """The lines of a run that is finished, as at its end. Args: encoding of the stream that shows them."""
    last = _last_step(run)
    yield f"complete: step {last} of {last}"
    yield from summary(Path(run.run_dir), bars=bars_for(encoding))


def _last_step(run: RunConfig) -> int:
    return last_step(run.optim, run.train, standing(Path(run.run_dir)))


def _is_unchanged(run: RunConfig, sources: Sources, last_step: int) -> bool:
    folder = checkpoints_dir(run.run_dir) / step_name(last_step)
    last = next(newest_metrics(Path(run.run_dir)), None)
    if last is None or (last.get("kind"), last.get("outcome"), last.get("step")) != (
        "end",
        "finished",
        last_step,
    ):
        return False
    if read_small_file(folder / CONFIG).decode() != to_yaml(run):
        return False
    position = json.loads(read_small_file(folder / DATA))
    identities = [source["identity"] for source in position["sources"]]
    if identities != [source.identity for source in sources.train]:
        return False
    if position["tokenizer_sha256"] != sources.tokenizer_sha256:
        return False
    if sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > MOST_BYTES:
        return False
    found = verify_checkpoint(folder, deep=True, num_threads=THREADS)
    return found.manifest is not None and not found.problems
