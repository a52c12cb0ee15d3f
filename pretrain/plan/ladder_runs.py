"""The finished runs of a ladder: that they are its rungs, trained to their end, and their last losses, from their own records."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError, user_path
from fanal.fields import is_count, is_figure
from fanal.run_progress import NEW_RUN, newest_metrics
from fanal.shown import in_yaml, on_one_line
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_step
from pretrain.log.start_file import StartFile, read_starts
from pretrain.plan.ladder import size_of
from pretrain.plan.law import Size

FREE = frozenset({"model.attention_backend", "data.prefetch_bytes", "data.verify"})
"""Keys that change nothing that is learned."""
SIZES = FREE | frozenset(
    {
        "model.num_layers", "model.hidden_size", "model.ffn_hidden_size", "model.num_attention_heads", "model.num_query_groups",
        "model.kv_channels", "model.init_method_std", "model.query_pre_attention_scalar",
        "data.phases",
    }
)  # fmt: skip
"""Keys of ``model`` and ``data`` in which the runs of a family may differ."""
TRAINED = ("train_steps", "global_batch_size", "batch_ramp", "batch_stages", "z_loss_weight", "precision", "seed")
"""Keys of ``train`` that say what is learned."""
LAST_PART = 0.05
"""Part of the steps at the end whose mean is the training loss, of runs that have no validation data."""


@dataclass(frozen=True, kw_only=True)
class FinishedRung:
    """A rung that was trained to its end."""

    name: str
    size: Size
    loss: float
    """Nats a token."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The runs of a ladder."""

    rungs: tuple[FinishedRung, ...]
    """The cheapest first."""
    missing: tuple[str, ...]
    """Names of those that are not finished, each with where it is."""
    what: str
    """Which loss it is, in words."""


def read_ladder(folder: Path, run: RunConfig) -> Finished:
    """Return the finished runs of the ladder in a folder, which must be rungs of this run's family.

    Raises: UserError if the folder has no rung, a rung is of another family, or a run is not of its rung; DamageError.
    """
    with user_path(folder):
        files = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    if not files:
        raise UserError(
            f"--ladder ({folder}) must be a folder with the config of every rung to fit their losses; without --fit it is written"
        )
    found: list[tuple[str, RunConfig, int]] = []
    missing, sources, owners = [], {}, {}
    for file in files:
        rung = load_run(file)
        _check_family(file, rung, run)
        if (first := owners.setdefault(rung.run_dir, file)) != file:
            raise UserError(
                f"{file} and {first} have the same run_dir ({rung.run_dir}), whose loss would count twice; move one of the two out "
                "of the folder"
            )
        last, starts = last_step(rung.optim, rung.train, NEW_RUN), read_starts(rung.run_dir)
        for start in starts:
            _check_run(file, rung, start)
            sources[file] = sorted(source.identity for source in (*start.sources, *start.validation_sources))
        done = _finished_at(Path(rung.run_dir))
        if done == last and starts:
            found.append((file.stem, rung, last))
        else:
            missing.append(f"{file.stem} ({'not begun' if not starts else f'not at its last step, {last:,}'})")
    _check_sources(sources)
    rungs, what = _losses(found)
    return Finished(rungs=tuple(sorted(rungs, key=lambda one: one.size.flops)), missing=tuple(missing), what=what)


def _check_family(file: Path, rung: RunConfig, run: RunConfig) -> None:
    """Refuse a rung that differs from the large run in what a family has in common."""
    for section in ("model", "data", "objective"):
        for key, here, there in _differences(asdict(getattr(rung, section)), asdict(getattr(run, section)), section):
            if key not in SIZES:
                raise UserError(
                    f"{file} is no rung of CONFIG: {key} is {in_yaml(here)} there and {in_yaml(there)} in CONFIG; --ladder with "
                    "another folder writes a ladder of this CONFIG"
                )
    if rung.optim.name != run.optim.name:
        raise UserError(
            f"{file} is no rung of CONFIG: optim.name is {rung.optim.name} there and {run.optim.name} in CONFIG; --ladder with "
            "another folder writes a ladder of this CONFIG"
        )


def _check_run(file: Path, rung: RunConfig, start: StartFile) -> None:
    """Refuse a start of a run that trained something else than its rung."""
    for section in ("model", "data", "objective", "optim", "train"):
        stated, trained = asdict(getattr(rung, section)), start.config.get(section, {})
        for key, here, there in _differences(
            {name: stated[name] for name in stated if name in trained}, trained, section
        ):
            if key in FREE or (section == "train" and key.removeprefix("train.") not in TRAINED):
                continue
            raise UserError(
                f"run_dir {rung.run_dir} is not of {file}: its start {start.number} had {key}={in_yaml(there)[:80]}, and the "
                f"rung has {in_yaml(here)[:80]}; fanal train {file} run_dir={rung.run_dir}-2 trains it, with that run_dir in "
                "the file"
            )


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], section: str
) -> Iterator[tuple[str, object, object]]:
    """Yield (key, our value, their value) of what differs."""
    for name, value in ours.items():
        if _plain(value) != _plain(theirs.get(name)):
            yield f"{section}.{name}", value, theirs.get(name)


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _check_sources(sources: Mapping[Path, Sequence[str]]) -> None:
    """Refuse runs that read other tokens than the first, whatever the paths say."""
    files = list(sources)
    for file in files[1:]:
        if sources[file] != sources[files[0]]:
            raise UserError(
                f"the runs of {files[0]} and {file} must have read the same shards, and the identities of their tokens differ; "
                "train one of them again with the shards of the other"
            )


def _finished_at(run_dir: Path) -> int | None:
    """Return the step of a run's end; None where its newest record is no such end."""
    last = next(newest_metrics(run_dir), {})
    step = last.get("step")
    return step if last.get("kind") == "end" and last.get("outcome") == "finished" and is_count(step) else None


def _losses(found: Sequence[tuple[str, RunConfig, int]]) -> tuple[list[FinishedRung], str]:
    """Return the runs with their losses, and which loss that is: of validation if all have it, over the same domains."""
    validated = [_validation(Path(run.run_dir), last) for _, run, last in found]
    domains = {tuple(sorted(losses)): name for (name, _, _), losses in reversed([*zip(found, validated, strict=True)])}
    if len(domains) == 1 and (names := next(iter(domains))):
        what = f"validation loss at the last step, mean over {', '.join(map(on_one_line, names))}"
        values = [sum(losses.values()) / len(losses) for losses in validated]
    else:
        if len(domains) > 1:
            raise UserError(
                "the runs of a ladder must have validation losses of the same domains, finite ones, at their last steps: "
                + " and ".join(sorted(f"{name} has {', '.join(names) or 'none'}" for names, name in domains.items()))
                + "; the same data.validation in every rung works, and without the file of a run that diverged it is left out"
            )
        what = f"training loss, mean of the last {LAST_PART:.0%} of the steps"
        values = [_training(Path(run.run_dir), last) for _, run, last in found]
    rungs = []
    for (name, run, _), loss in zip(found, values, strict=True):
        if not 0 < loss < math.inf:
            raise UserError(
                f"the loss of {name} ({loss}) must be a finite number above 0; move its file out of the folder to leave it out"
            )
        rungs.append(FinishedRung(name=name, size=size_of(run), loss=loss))
    return rungs, what


def _validation(run_dir: Path, last: int) -> dict[str, float]:
    """Return the validation losses of the last step by domain; empty if it has none."""
    record = next((one for one in newest_metrics(run_dir, kinds=["validation"]) if one.get("step") == last), {})
    losses = record.get("validation_loss")
    return {name: loss for name, loss in losses.items() if is_figure(loss)} if isinstance(losses, dict) else {}


def _training(run_dir: Path, last: int) -> float:
    """Return the mean training loss of the last steps that were logged."""
    losses: list[float] = []
    for record in newest_metrics(run_dir, kinds=["step"]):
        if not is_count(record.get("step")) or (losses and record["step"] <= last * (1 - LAST_PART)):
            break
        losses += [record["loss"]] if is_figure(record.get("loss")) else []
    return sum(losses) / len(losses) if losses else math.nan
