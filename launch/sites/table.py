"""The sites that there are, as a table."""

from rich.table import Table

from fanal.console import print_table
from launch.sites.schema import SiteConfig
from launch.sites.site import known_sites, load_site

COLUMNS = ("site", "machine", "GPUs a node", "architecture", "container", "longest slot", "internet")


def show_sites() -> None:
    """Print a line for each site of ``launch/sites``."""
    table = Table(*COLUMNS)
    for name in known_sites():
        table.add_row(name, *cells(load_site(name)))
    print_table(table)


def cells(site: SiteConfig) -> tuple[str, ...]:
    """Return what the table says of a site, after its name."""
    gpus = (
        f"{site.gpus_per_node} x {site.gpu_name or 'GPU'}, {site.gpu_memory_gib:g} GiB"
        if site.gpus_per_node
        else "none"
    )
    return (
        site.description, gpus, site.architecture, site.container.runtime if site.container else "", longest_slot(site),
        site.internet,
    )  # fmt: skip


def longest_slot(site: SiteConfig) -> str:
    """Return the longest walltime of a job, and what gives it; empty where the site names no limits."""
    if not site.qos:
        return ""
    longest = max(site.qos, key=lambda qos: qos.max_hours)
    most = f", {longest.max_gpus} GPUs" if longest.max_gpus else ""
    return f"{longest.max_hours:g} h ({longest.name}{most})"
