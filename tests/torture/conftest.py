"""Runs that are killed are forked from the same server as the ranks of tests/dist."""

import pytest

from tests.dist.harness import start_fork_server


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """The server of this process."""
    start_fork_server()
