"""Sites against a real Slurm that has them in its books: they fit, and what is changed there is named."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from fanal.node_name import expanded
from launch.__main__ import cli
from launch.sites.books import Books, read_books
from launch.sites.check import findings_of
from launch.sites.site import known_sites, load_site
from tests.slurm.cluster import Cluster

IN_THE_BOOKS = [name for name in known_sites() if load_site(name).gpus_per_node]
CHANGES = {
    "a shorter partition": ("lumi-g", "PartitionName=standard-g MaxTime=1-00:00:00", "MaxTime=2-00:00:00", "max_hours of standard-g is 48, and Slurm says 24"),
    "a longer partition": ("alps-clariden", "PartitionName=normal MaxTime=18:00:00", "MaxTime=12:00:00", "max_hours of normal is 12, and Slurm says 18"),
    "fewer nodes": ("lumi-g", "PartitionName=dev-g MaxNodes=16", "MaxNodes=32", "max_gpus of dev-g is 256, and Slurm says 128"),
    "a least number of nodes": ("isambard-ai", "PartitionName=workq MinNodes=8", "MinNodes=0", "min_gpus of workq is 0, and Slurm says 32"),
    "a partition that is down": ("jupiter", "PartitionName=booster State=DOWN", "State=UP", "partition booster is DOWN, and takes no jobs"),
    "another default walltime": ("jean-zay-h100", "PartitionName=gpu_p6 DefaultTime=30", "DefaultTime=10", "default_walltime_minutes is 10, and DefaultTime of gpu_p6 is 00:30:00"),
    "a partition that holds up a QoS": ("leonardo", "PartitionName=boost_usr_prod MaxTime=12:00:00", "MaxTime=4-00:00:00", "max_hours of normal is 24, and Slurm says 12"),
    "another feature": ("jean-zay-a100", "NodeName=a[1-64] AvailableFeatures=b100 ActiveFeatures=b100", "AvailableFeatures=a100 ActiveFeatures=a100", "no node of partition gpu_p5 has constraint 'a100'; there are b100"),
}  # fmt: skip
"""Site, what is changed in its Slurm, how it was, and what is said then."""


@pytest.fixture
def asked(books: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster that this process asks."""
    for name, value in books.env.items():
        monkeypatch.setenv(name, value)
    return books


@pytest.fixture(scope="module")
def read(books: Cluster) -> Books:
    """What the cluster says, once for all sites."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in books.env.items():
            patch.setenv(name, value)
        return read_books()


@pytest.mark.parametrize("name", IN_THE_BOOKS)
def test_a_site_fits_the_slurm_that_has_it_in_its_books(name: str, read: Books) -> None:
    findings = list(findings_of(load_site(name), read))
    assert [finding.text for finding in findings if finding.kind == "differs"] == []
    agreed = [finding.text for finding in findings if finding.kind == "ok"]
    site = load_site(name)
    partition = site.qos[0].partition if site.qos else ""
    for wanted in (
        f"gpus_per_node of {partition or site.partition or 'gpus'} {site.gpus_per_node}, all ",
        "cores_per_node of ",
    ):
        assert any(text.startswith(wanted) for text in agreed), agreed


@contextmanager
def changed(cluster: Cluster, change: str, before: str) -> Iterator[None]:
    cluster.scontrol("update", *change.split())
    try:
        yield
    finally:
        cluster.scontrol("update", change.split()[0], *before.split())


@pytest.mark.parametrize("what", CHANGES)
def test_what_differs_is_named(what: str, asked: Cluster) -> None:
    name, change, before, said = CHANGES[what]
    with changed(asked, change, before):
        differing = [
            finding.text for finding in findings_of(load_site(name), read_books()) if finding.kind == "differs"
        ]
    assert said in differing


def test_the_command_says_so_and_leaves_its_code(asked: Cluster) -> None:
    fits = CliRunner().invoke(cli, ["site-check", "lumi-g"])
    assert (fits.exit_code, fits.output.splitlines()[-1]) == (0, "lumi-g: fits")
    with changed(asked, "PartitionName=small-g MaxNodes=2", "MaxNodes=4"):
        differs = CliRunner().invoke(cli, ["site-check", "lumi-g"])
    assert differs.exit_code == 2
    assert "differs: max_gpus of small-g is 32, and Slurm says 16\n" in differs.output


def test_lists_of_nodes_are_read_as_slurm_reads_them(books: Cluster) -> None:
    for listed in (
        "n1",
        "n[1-3]",
        "lrdn[0337,0417-0419],lrdn2658",
        "jpbo-[001-002]-[09-11]",
        "a,b[2,4],c",
    ):
        said = subprocess.run(["scontrol", "show", "hostnames", listed], env=books.env, capture_output=True, text=True)
        assert expanded(listed) == said.stdout.split(), listed
