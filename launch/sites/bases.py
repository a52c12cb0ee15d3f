"""Inheritance of sites: ``base`` names another site, a file of ``launch/sites/bases`` or a path, whose keys are taken over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.shown import shown
from launch.sites.schema import SiteConfig
from pretrain.config.load import read_mapping

SITES = Path(__file__).parent
BASES = SITES / "bases"
"""Parts that sites share, which are no sites of their own."""


def files_of_site(path: Path) -> list[Path]:
    """Return the file of a site and those of its bases, nearest first. Raises: UserError as ``resolved_tree``."""
    return [file for file, _ in _layers(path)]


def resolved_tree(path: Path) -> dict[str, Any]:
    """Return the keys of a site with those of its bases: mappings are joined key by key, all else is replaced.

    Raises: UserError if a file is no site, a base is not known, or bases name each other in a circle.
    """
    tree: dict[str, Any] = {}
    for _, layer in reversed(_layers(path)):
        tree = joined(tree, layer)
    tree.pop("base", None)
    return tree


def joined(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return two trees as one: where both have a mapping its keys are joined, else what is above counts. An environment variable
    stays one thing: its value and its reason belong together."""
    tree = dict(below)
    for key, value in above.items():
        old = tree.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            tree[key] = {**old, **value} if key == "environment" else joined(old, value)
        else:
            tree[key] = value
    return tree


def known_bases() -> list[str]:
    """Return the names that ``base`` takes: sites, and files of ``launch/sites/bases``."""
    return sorted({path.stem for folder in (SITES, BASES) for path in folder.glob("*.yaml")})


def _layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    found: list[tuple[Path, dict[str, Any]]] = []
    while True:
        tree = read_mapping(path, SiteConfig, what="site", example="gpus_per_node: 4")
        found.append((path, tree))
        name = tree.get("base")
        if name is None or name == "":
            return found
        path = _base_path(name, path)
        if path.resolve() in [file.resolve() for file, _ in found]:
            raise UserError(_circle([file for file, _ in found], path))


def _base_path(name: object, path: Path) -> Path:
    """Return the file that a base names: by a path from the folder of the file that names it, or by a known name."""
    known = known_bases()
    if isinstance(name, str) and name.endswith((".yaml", ".yml")):
        places = [path.parent / name]
    else:
        places = [folder / f"{name}.yaml" for folder in (SITES, BASES) if name in known]
    base = next((place for place in places if _is_file(place)), None)
    if base is None:
        raise UserError(
            f"{path}: base ({shown(str(name))}) must be one of {', '.join(known)}, or the path of a YAML file from the folder of "
            "this one; infiniband works"
        )
    return base


def _is_file(path: Path) -> bool:
    """Whether there is a file of this name; not of one that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def _circle(files: Sequence[Path], again: Path) -> str:
    names = " -> ".join(file.name for file in (*files, again))
    return f"{files[-1]}: base ({again.name}) must not lead back to a file that it came from ({names}); a file without base works"
