"""Processor of a site's nodes against that of the machine at hand: programs of one do not run on the other."""

import platform

from fanal.errors import UserError
from launch.sites.schema import SiteConfig


def architecture_warning(site: SiteConfig, site_name: str) -> list[str]:
    """Return a warning if a job is made where its Python cannot be that of the nodes."""
    here = platform.machine()
    if site.architecture in ("", here):
        return []
    return [
        f"this machine is {here} and the nodes of {site_name} are {site.architecture}: the script's Python would not run there; "
        "made by the Python of a node, in a job of one node, it does"
    ]


def check_architecture(site: SiteConfig, site_name: str) -> None:
    """Refuse a node that is not what its site says. For processes that run on one.

    Raises: UserError naming the key, its value and what works.
    """
    here = platform.machine()
    if site.architecture not in ("", here):
        raise UserError(
            f"architecture of {site_name} ({site.architecture}) must be that of its nodes, and this one is {here}; "
            f"architecture: {here} works"
        )
