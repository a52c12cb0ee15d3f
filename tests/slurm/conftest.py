"""One Slurm of two nodes for all tests of this folder that one worker runs; skipped, or failed where it is required, on a machine
without."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, why_no_cluster
from tests.slurm.site_books import BOOKS

REQUIRED = "FANAL_REQUIRE_SLURM"
"""Set to 1 by `make test-slurm`: a machine that cannot start Slurm fails instead of skipping."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster of two nodes."""
    if why := why_no_cluster():
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{why} ({REQUIRED}=1)", pytrace=False)
        pytest.skip(why)
    with Cluster() as started:
        yield started


@pytest.fixture(scope="session")
def books(cluster: Cluster) -> Iterator[Cluster]:
    """A controller without nodes that run, and the sites in its books. Asked for after ``cluster``, which says whether there is a
    Slurm."""
    assert why_no_cluster() is None
    with Cluster(nodes=(), more_config=BOOKS) as started:
        yield started


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test left of its jobs is ended, and a node it killed is started, before the next test."""
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").clear()
