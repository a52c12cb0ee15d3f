"""Whether compute nodes can reach every path that a job names."""

from collections.abc import Mapping
from pathlib import Path

from launch.site import SiteConfig, file_system_of
from pretrain.config.path_rules import paths_of
from pretrain.config.schema import RunConfig, SourceConfig


def check_reach(run: RunConfig, site: SiteConfig, site_name: str, *, run_dir: Path, places: list[Path]) -> None:
    """Refuse paths on file systems that compute nodes cannot reach, or that each node has for itself.

    Args: places, [working folder, code, Python]; the first one is where relative paths count from.
    Raises: ValueError naming the key, the path and the file systems that work.
    """
    workdir, code_dir, python = places
    named = {"run_dir": run_dir, "the working folder": workdir, "the code": code_dir, "Python": python}
    check_paths(named | {key: workdir / path for key, path in paths_of(run).items()}, site, site_name)


def check_paths(named: Mapping[str, Path], site: SiteConfig, site_name: str) -> None:
    """Refuse absolute paths on file systems that compute nodes cannot reach, or that each node has for itself.

    Args: named, paths by the key or option that gives them.
    Raises: ValueError naming the key, the path and the file systems that work.
    """
    for key, path in named.items():
        file_system = file_system_of(path, site)
        if file_system is None or (file_system.on_compute_nodes and file_system.shared):
            continue
        rule = (
            "which compute nodes cannot reach"
            if not file_system.on_compute_nodes
            else "which every node has for itself"
        )
        works = ", ".join(one.name for one in site.file_systems if one.on_compute_nodes and one.shared)
        raise ValueError(
            f"{key} ({path}) lies on {file_system.name} of {site_name}, {rule}; "
            + (f"one of {works} works" if works else "a file system that all nodes share works")
        )


def shards_of(run: RunConfig) -> list[str]:
    """Prefixes of all shards that a run reads, each once."""
    sources: list[SourceConfig] = [*run.data.train, *run.data.held_out]
    for phase in run.data.phases:
        sources.extend(phase.train)
    return list(dict.fromkeys(source.prefix for source in sources))
