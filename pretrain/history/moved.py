"""Data that lie elsewhere now than the run's configuration says: the beginning of their paths is another one.

Whether they are the same, their hashes tell: what ``open_history_data`` compares does not depend on paths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fanal.errors import UserError
from pretrain.config.path_rules import paths_of
from pretrain.config.schema import RunConfig
from pretrain.config.schema.data import DataConfig, SourceConfig
from pretrain.data.sources import is_there
from pretrain.history.history import History


@dataclass(frozen=True)
class Moved:
    """The beginning of paths, up to the end of a name, and what stands in its place now."""

    old: str
    new: str

    def path(self, path: str) -> str | None:
        """Return where a path leads now; None if it does not begin so."""
        is_below = path == self.old or path.startswith(f"{self.old}/")
        return f"{self.new}{path[len(self.old) :]}" if is_below else None


def moved_of(words: Sequence[str]) -> tuple[Moved, ...]:
    """Return what ``--moved OLD=NEW`` says, each time that it is given. Raises: UserError."""
    found = []
    for word in words:
        old, equals, new = word.partition("=")
        if not equals or not old or not new:
            raise UserError(
                f"--moved ({word}) must be OLD=NEW, the beginning of paths in the configuration and where it lies now; "
                "--moved my/shards=/archive/shards works"
            )
        found.append(Moved(old.rstrip("/"), new.rstrip("/")))
    return tuple(found)


def with_moved(history: History, moved: Sequence[Moved], *, may_be_unused: bool = False) -> History:
    """Return a history whose shards and tokenizers, of its earlier runs too, are looked for where they lie now.

    Raises: UserError for one that no path of them begins with, unless it may be unused.
    """
    paths = [path for phase in history.phases for path in data_paths(phase.segments[-1].config).values()]
    for one in () if may_be_unused else moved:
        if not any(one.path(path) for path in paths):
            raise UserError(
                f"--moved ({one.old}={one.new}) must begin with the beginning of a path of the run's data, and none of them does; "
                f"--moved {_beginning(paths[0])}={one.new} works for {paths[0]}"
            )
    return _moved(history, moved) if moved else history


def data_paths(run: RunConfig) -> dict[str, str]:
    """Return the paths of a run's tokenizer and shards, by their keys."""
    return {key: path for key, path in paths_of(run).items() if key.startswith("data.")}


def refuse_missing(history: History) -> None:
    """Raises: UserError for the first shard or tokenizer of a run's last configuration that is not where it says."""
    for key, path in data_paths(history.segments[-1].config).items():
        if not is_there(key, path):
            raise UserError(
                f"{key} ({path}) of {history.run_dir} is not there; --moved {_beginning(path)}=NEW works, with NEW what that part "
                "of the path is now"
            )


def _beginning(path: str) -> str:
    """Return the folder of a path; of a name alone that name."""
    folder = str(Path(path).parent)
    return path if folder == "." else folder


def _moved(history: History, moved: Sequence[Moved]) -> History:
    segments = tuple(replace(each, config=_of_run(each.config, moved)) for each in history.segments)
    return replace(history, segments=segments, before=tuple(_moved(each, moved) for each in history.before))


def _of_run(run: RunConfig, moved: Sequence[Moved]) -> RunConfig:
    def now(path: str) -> str:
        return next((found for one in moved if (found := one.path(path)) is not None), path)

    def sources(found: Iterable[SourceConfig]) -> list[SourceConfig]:
        return [replace(source, prefix=now(source.prefix)) for source in found]

    data = run.data
    there: DataConfig = replace(
        data,
        tokenizer=now(data.tokenizer),
        train=sources(data.train),
        phases=[replace(phase, train=sources(phase.train)) for phase in data.phases],
        validation=sources(data.validation),
    )
    return replace(run, data=there)
