"""Ranks are forked from one server in each process of a test session, warm whichever test needs it first."""

import pytest

from tests.dist.harness import start_fork_server


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """The server of this process."""
    start_fork_server()
