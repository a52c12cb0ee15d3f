"""Location of the paths that a job names, and whether compute nodes can reach them."""

import os
from collections.abc import Iterable
from pathlib import Path

from fanal.errors import UserError
from fanal.run_folder import checkpoints_dir
from launch.sites.schema import FileSystemConfig, SiteConfig
from pretrain.config.path_rules import paths_of
from pretrain.config.schema import DataConfig, RunConfig, SourceConfig

MAX_LINKS = 40
"""Most symbolic links followed on the way to one file; Linux follows as many."""
SHARD_FILES = (".bin", ".idx", ".json")


def check_reach(run: RunConfig, site: SiteConfig, site_name: str, *, run_dir: Path, places: list[Path]) -> None:
    """Refuse paths on file systems that compute nodes cannot reach, or that each node has for itself.

    Args: places, [working folder, code, Python]; the first one is where relative paths count from.
    Raises: UserError naming the key, the path and the file systems that work.
    """
    workdir, code_dir, python = places
    named = [("run_dir", run_dir), ("run_dir", checkpoints_dir(run_dir)), ("the working folder", workdir)]
    named += [("the code", code_dir), ("Python", python)]
    for key, path in paths_of(run).items():
        named.append((key, workdir / path))
        if key.endswith(".prefix"):  # the folder may be here, and each file of it a link
            named += [(key, workdir / f"{path}{end}") for end in SHARD_FILES]
    check_paths(named, site, site_name)


def check_paths(named: Iterable[tuple[str, Path]], site: SiteConfig, site_name: str) -> None:
    """Refuse absolute paths on file systems that compute nodes cannot reach, or that each node has for itself.

    Args: named, (key or option, path that it gives).
    Raises: UserError naming the key, the path and the file systems that work.
    """
    for key, path in named:
        for reading, file_system in file_systems_of(path, site):
            if not (file_system.on_compute_nodes and file_system.shared):
                raise _out_of_reach(key, path, reading, file_system, site, site_name)


def _out_of_reach(
    key: str, path: Path, reading: Path, file_system: FileSystemConfig, site: SiteConfig, site_name: str
) -> UserError:
    lies = "lies" if reading == path else f"leads to {reading},"
    rule = "which compute nodes cannot reach" if not file_system.on_compute_nodes else "which every node has for itself"
    works = ", ".join(one.name for one in site.file_systems if one.on_compute_nodes and one.shared)
    return UserError(
        f"{key} ({path}) {lies} on {file_system.name} of {site_name}, {rule}; "
        + (f"one of {works} works" if works else "a file system that all nodes share works")
    )


def file_systems_of(path: Path, site: SiteConfig) -> list[tuple[Path, FileSystemConfig]]:
    """Yield each reading of an absolute path with the file system it lies on, first to last, as far as the site names them.

    A node needs all of them: a link that lies where it cannot look leads nowhere, wherever it points.
    """
    roots = _roots(site)
    found = []
    for reading in readings(path):
        above = [(len(root.parts), place) for place, (root, _) in enumerate(roots) if reading.is_relative_to(root)]
        if above:  # the longest root: a file system may lie below another one
            found.append((reading, roots[max(above)[1]][1]))
    return found


def readings(path: Path) -> list[Path]:
    """Yield an absolute path as it is written, as each symbolic link on the way changes it, and where it ends.

    Those with ``..`` are left out: behind a link it is not the folder that is written before it.
    """
    found, end = [path], Path(os.path.realpath(path))
    for _ in range(MAX_LINKS):
        link = next(((above, to) for above in (*reversed(path.parents), path) if (to := _link(above))), None)
        if link is None:
            break
        path = link[0].parent / link[1] / path.relative_to(link[0])
        found.append(path)
    return [one for one in dict.fromkeys([*found, end]) if ".." not in one.parts]


def _link(path: Path) -> Path | None:
    """Return what a symbolic link says; None if the path is not a link, or where this user may not look."""
    try:
        return path.readlink()
    except OSError:
        return None


def _roots(site: SiteConfig) -> list[tuple[Path, FileSystemConfig]]:
    """Return the roots of all file systems, as they are written and as links resolve them."""
    roots = []
    for file_system in site.file_systems:
        for root in file_system.roots:
            expanded = os.path.expandvars(root)
            if "$" in expanded or not expanded:
                continue  # the variable is not set on this machine
            roots += [(Path(expanded), file_system), (Path(os.path.realpath(expanded)), file_system)]
    return roots


def shards_of(data: DataConfig) -> list[str]:
    """Return the prefixes of all shards that a run reads, each once."""
    sources: list[SourceConfig] = [*data.train, *data.validation]
    for phase in data.phases:
        sources.extend(phase.train)
    return list(dict.fromkeys(source.prefix for source in sources))
