"""A site: a kind of node of a cluster, and the rules of its batch queue. One YAML file each, in ``launch/sites``.

A new site is a copy of ``launch/sites/generic.yaml``, or a few keys over a ``base``; ``--site`` takes the name of a file there or a
path. A site is code, and so is its base: jobs load its modules and set its variables, and preflight runs its quota commands, with
the rights of who uses it.
"""

import os
import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fanal.errors import UserError, user_path
from fanal.interpolations import refuse_any_interpolation
from fanal.ownership import why_not_own
from fanal.run_folder import was_written_resolved
from launch.sites.bases import BASES, SITES, files_of_site, resolved_tree
from launch.sites.facts import check_facts
from launch.sites.rules import check_site
from launch.sites.schema import SiteConfig
from pretrain.config.load import typed


def load_site(name: str) -> SiteConfig:
    """Load the site of this name, or of the YAML file at this path.

    Raises: UserError naming the sites there are, or the key and the rule it breaks; or if another user may change the file.
    """
    path = _path_of(name)
    with user_path(path):
        is_file = path.is_file()
    if not is_file:
        raise UserError(
            f"site {name!r} is not known; known are {', '.join(known_sites())}, and the path of a YAML file works, too"
        )
    if path.parent != SITES:
        for file in files_of_site(path):
            if file.parent not in (SITES, BASES):
                _check_own(file)
    return read_site(path)


def machine_key(name: str) -> str:
    """Return what a refusal calls the key of a site that names a machine."""
    return f"machine of site {name}"


def site_note(name: str) -> str:
    """Return the line that says what a site from elsewhere may do; empty for one of ours."""
    path = _path_of(name)
    return (
        "" if path.parent == SITES else f"site: {path} is code: its modules, environment and quota_command run as you"
    )


def _path_of(name: str) -> Path:
    return Path(name) if name.endswith((".yaml", ".yml")) else SITES / f"{name}.yaml"


def _check_own(path: Path) -> None:
    """Refuse a site that another user may change after its reader has looked at it."""
    with user_path(path):
        why = why_not_own(Path(os.path.realpath(path)))
    if why:
        raise UserError(
            f"site {path} must be a file that only you may change, since it runs as you, and {why}; a copy that you have read "
            f"works: `install -m 644 {shlex.quote(str(path))} my-site.yaml`"
        )


def read_site(path: Path) -> SiteConfig:
    """Read the site in a file, whoever may change it: for readers that run nothing of it. Raises: as ``load_site``."""
    tree = resolved_tree(path)
    if was_written_resolved(path):
        refuse_any_interpolation(tree, where=str(path))
    site = typed([tree], SiteConfig, where=str(path), variable="${}")
    _check_quoted(tree, site, str(path))
    check_site(site, str(path))
    check_facts(site.plan, site.file_systems, str(path))
    return site


def site_text(site: SiteConfig) -> str:
    """Return every key of a site as YAML, as a job reads it."""
    return OmegaConf.to_yaml(OmegaConf.structured(site))


def known_sites() -> list[str]:
    """Return the names that ``load_site`` takes."""
    return sorted(path.stem for path in SITES.glob("*.yaml"))


def _check_quoted(read: Any, made: Any, where: str, key: str = "") -> None:
    """Refuse what YAML reads as a number or a truth value where text is wanted: 010 would become 8, and 1.10 be 1.1."""
    if isinstance(read, dict):
        for name, value in read.items():
            inner = made[name] if isinstance(made, dict) else getattr(made, name)
            _check_quoted(value, inner, where, f"{key}.{name}" if key else name)
    elif isinstance(read, list):
        for number, value in enumerate(read):
            _check_quoted(value, made[number], where, f"{key}[{number}]")
    elif isinstance(made, str) and not isinstance(read, str):
        name = "" if key.endswith("]") else f"{key.split('.')[-1]}: "
        raise UserError(
            f"{where}: {key} must be text, and YAML reads it as {type(read).__name__} {read}; write it in quotes: "
            f"{name}'{made}' works"
        )
