"""``checkpoint.init_from``: the checkpoint of another run that a run starts from. Here it is found by names and sizes and
compared with the configuration; choose.py has every byte of it verified. Nothing in its folder is ever changed.

Everything here is cheap, reads a few small files, and is done once before ranks are started and once by them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.run_folder import DATA, IMPORTED_FILES, REASON, checkpoints_dir, is_bad, step_of
from fanal.run_progress import standing_in
from pretrain.checkpoint.disk.config_file import model_in, read_config, read_schedule, value_in
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, Manifest
from pretrain.checkpoint.disk.origin import Origin, sealed_hash
from pretrain.checkpoint.disk.retention import bad_in, checkpoints_in
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.verify import (
    GoneError,
    first_whole,
    is_checkpoint,
    real_path,
    still_there,
    verify_checkpoint,
)
from pretrain.config.same_model import FREE_AT_START, model_differences
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_step
from pretrain.data.position import read_position
from pretrain.optim.registry import EMA, optimizer_of, states_kept
from tokenizer.shards.manifest import read_manifest
from tokenizer.vocabulary.pieces import Pieces, difference, pieces_in, pieces_of


def check_init_from(run: RunConfig, *, tokenizer_sha256: str) -> None:
    """Find mistakes in checkpoint.init_from before ranks are started; does nothing if it is not set, or no longer matters.

    Raises: as ``find_origin`` and ``check_origin``.
    """
    own = checkpoints_dir(run.run_dir)
    if run.checkpoint.init_from is not None and not checkpoints_in(own) and not bad_in(own):
        folder, _ = find_origin(run)
        with still_there(folder):
            check_origin(run, folder, tokenizer_sha256=tokenizer_sha256)


def find_origin(run: RunConfig) -> tuple[Path, Manifest]:
    """Return the checkpoint that checkpoint.init_from names, or the newest of the run that it names; by names and sizes.

    Raises: UserError if there is no checkpoint; DamagedCheckpointError if it is damaged, or was set aside by its own run.
    """
    named = _named(run)
    own, real = real_path(run.run_dir), real_path(named)
    if real == own or real.parent == real_path(checkpoints_dir(own)):
        raise UserError(
            f"checkpoint.init_from ({named}) must be a checkpoint of another run than run_dir ({run.run_dir}), which resumes from "
            f"its own checkpoints by itself; checkpoint.init_from=null works, or run_dir={run.run_dir}-2"
        )
    folder = real if is_checkpoint(named) else _newest_of_run(named)
    finding = verify_checkpoint(folder, deep=False)
    if finding.manifest is None or finding.problems:
        raise DamagedCheckpointError(damage(folder, finding.problems))
    return folder, finding.manifest


def check_origin(run: RunConfig, folder: Path, *, tokenizer_sha256: str) -> None:
    """Check that the configured run can start from the weights of this checkpoint.

    Layout, precision, lengths, batches, rates and data may all be others.
    Raises: UserError naming each difference that may not be, if a newer version wrote the checkpoint, if its run has not come
    to its end and nobody named the checkpoint itself, or if the optimizer's states are to be kept and there are none.
    """
    named, saved = _named(run), read_config(folder)
    differences = model_differences(model_in(saved, folder), run.model, free=FREE_AT_START)
    if os.path.lexists(folder / DATA):
        there = read_position(folder / DATA).tokenizer_sha256
        if there != tokenizer_sha256:
            differences.append(
                f"the tokenizer (checkpoint sha256 {there[:12]}, config data.tokenizer {run.data.tokenizer} "
                f"{tokenizer_sha256[:12]})"
            )
    else:
        differences += _tokenizer_differences(run, folder)
    if differences:
        raise UserError(
            f"checkpoint.init_from ({named}) must have the model's shape and its tokenizer, but differs in "
            f"{'; '.join(differences)}: use the checkpoint's values with {folder}, or checkpoint.init_from=null to start from "
            "initial weights"
        )
    step, last = step_of(folder.name) or 0, _last_step_of(folder, saved)
    if not is_checkpoint(named) and last is not None and step < last:
        raise UserError(
            f"checkpoint.init_from ({named}) is a run that is at step {step} of {last}: train it to its end, or name "
            f"its checkpoint to start from it as it is; checkpoint.init_from={folder} works"
        )
    if run.checkpoint.init_optimizer == "keep":
        _check_states(run, folder)


def _last_step_of(folder: Path, saved: dict[str, Any]) -> int | None:
    """Return the last step of the run that wrote a checkpoint; None if its config does not say it."""
    schedule, since = read_schedule(folder), standing_in(folder)
    if schedule is not None and since is not None:
        return last_step(*schedule, since)
    steps = saved["train"].get("train_steps")
    return steps if isinstance(steps, int) else None


def imported_tokenizer(folder: Path) -> Pieces | None:
    """Return the pieces of the tokenizer that an imported checkpoint came with; None if it has none of a form known here."""
    return next(iter(pieces_in(folder / IMPORTED_FILES).values()), None)


def _tokenizer_differences(run: RunConfig, folder: Path) -> list[str]:
    """Compare data.tokenizer with the tokenizer of an import, which has read no data: no hash says what its model knows."""
    theirs, ours = imported_tokenizer(folder), pieces_of(Path(run.data.tokenizer))
    differs = None if theirs is None or ours is None else difference(theirs, ours)
    if differs is None:
        return []
    sources = [*run.data.train, *(source for phase in run.data.phases for source in phase.train)]
    if all(read_manifest(source.prefix).has_other_ids for source in sources):
        return []  # the ids are the import's own, and data.tokenizer stands for it
    return [f"the tokenizer ({folder / IMPORTED_FILES} and config data.tokenizer {run.data.tokenizer}: {differs})"]


def kept_from(run: RunConfig, folder: Path) -> tuple[str, ...]:
    """Return the states of this checkpoint's optimizer with which the configured one goes on; none if it starts afresh."""
    if run.checkpoint.init_optimizer != "keep":
        return ()
    return states_kept(run.optim, value_in(read_config(folder), "optim.name"))


def optimizer_change(run: RunConfig, folder: Path) -> str | None:
    """Return one line for people if the run goes on with states of another optimizer: which are kept, and which start at zero."""
    before, stated, kept = value_in(read_config(folder), "optim.name"), optimizer_of(run.optim), kept_from(run, folder)
    if not kept or before == run.optim.name:
        return None
    updates = f" and the count of {read_index(folder).num_updates:,} updates" if stated.counts_updates else ""
    begins = [name for name in stated.states if name not in kept]
    return (
        f"the optimizer is {stated.title} (optim.name={run.optim.name}) and was {before}: {' and '.join(kept)}{updates} are kept"
        + (f", {' and '.join(begins)} at zero" if begins else "")
    )


def _check_states(run: RunConfig, folder: Path) -> None:
    """Check that a checkpoint holds what the configured optimizer can keep of the one that wrote it: names alone say nothing."""
    stated, before = optimizer_of(run.optim), value_in(read_config(folder), "optim.name")
    # A moving average begins at the weights where there is none.
    held = [state for state in read_index(folder).states if state != EMA]
    kept = states_kept(run.optim, before)
    if not stated.states or (kept and set(kept) <= set(held)):
        return
    found = "only weights" if len(held) == 1 else f"{' and '.join(held[1:])} of optim.name={before}"
    wanted = kept or stated.states
    if not kept and len(held) > 1:
        found += ", of which it can keep nothing"
    raise UserError(
        f"checkpoint.init_optimizer (keep) needs {' and '.join(wanted)} of {stated.title} (optim.name={run.optim.name}), "
        f"and {folder} holds {found}; checkpoint.init_optimizer=fresh works"
    )


def check_same_origin(run: RunConfig, origin: Origin | None, folder: Path) -> None:
    """Refuse to resume a run under a configuration that says it started from elsewhere. Whether anything is left there does not
    matter; a checkpoint that was moved is known by its hash.

    Args: origin: what the run's checkpoint ``folder`` records. Raises: UserError naming both.
    """
    stated, keeps = run.checkpoint.init_from, run.checkpoint.init_optimizer
    if origin is None:
        if stated is not None:
            raise UserError(
                f"checkpoint.init_from ({stated}) must name what the run started from, and checkpoint {folder} says that it "
                "started from initial weights; checkpoint.init_from=null works, or another run_dir for a run that starts from there"
            )
        return
    if stated != origin.init_from and not _is_there(stated, origin):
        raise UserError(
            f"checkpoint.init_from ({stated}) must name what the run started from, and checkpoint {folder} says that it started "
            f"from {origin.init_from} ({origin.checkpoint}); checkpoint.init_from={origin.init_from} works, even if nothing is "
            "left there, or another run_dir for another run"
        )
    if keeps != origin.init_optimizer:
        raise UserError(
            f"checkpoint.init_optimizer ({keeps}) must be as at the start of the run, and checkpoint {folder} says "
            f"{origin.init_optimizer}; checkpoint.init_optimizer={origin.init_optimizer} works, or another run_dir for another run"
        )


def damage(folder: Path, problems: Sequence[str]) -> str:
    """Return the message about a damaged checkpoint: what is wrong, and which older one could be named in its place."""
    older = [path for path in checkpoints_in(folder.parent) if (step_of(path.name) or 0) < (step_of(folder.name) or 0)]
    try:
        works = f"checkpoint.init_from={first_whole(older, deep=False)[0].folder} names the one before"
    except (DamagedCheckpointError, GoneError):
        works = "there is no older intact one beside it"
    return (
        f"the checkpoint to start from is damaged, and was not changed: {'; '.join(problems)}. Copy it again; {works}"
    )


def _named(run: RunConfig) -> Path:
    assert run.checkpoint.init_from is not None, "asked only where it is set"
    return Path(run.checkpoint.init_from)


def _newest_of_run(named: Path) -> Path:
    folder = checkpoints_dir(named)
    found, aside = checkpoints_in(folder), bad_in(folder)
    newest = step_of(found[0].name) if found else None
    later = [path for path in aside if newest is None or _bad_step(path) > newest]
    if later:
        works = f"checkpoint.init_from={found[0]} names the newest that is left" if found else "none is left"
        raise DamagedCheckpointError(
            f"the newest checkpoint of the run to start from was damaged and set aside as {later[-1]} ({later[-1].name}.{REASON} "
            f"says why): copy it again under its name; {works}"
        )
    if not found:
        runs = sorted(str(path.parent) for path in named.parent.glob("*/checkpoints"))[:8]
        raise UserError(
            f"checkpoint.init_from ({named}) must be a checkpoint's folder, or a run's folder with one in it; "
            f"{_why_not(named)}. Runs beside it: {', '.join(runs) or 'none'}; "
            "checkpoint.init_from=null starts from initial weights"
        )
    return found[0]


def _why_not(named: Path) -> str:
    if named.is_dir():
        return "it has none"
    return "it is not a folder" if named.exists() else "it does not exist"


def _bad_step(folder: Path) -> int:
    assert is_bad(folder.name), f"{folder} was not set aside"
    return step_of(folder.name.partition(".")[0]) or 0


def _is_there(stated: str | None, origin: Origin) -> bool:
    """Return whether a path that the record does not know holds the checkpoint that it does."""
    if stated is None:
        return False
    named = Path(stated)
    folder = named if is_checkpoint(named) else checkpoints_dir(named) / Path(origin.checkpoint).name
    try:
        return sealed_hash(folder) == origin.manifest_sha256
    except DamagedCheckpointError:
        return False
