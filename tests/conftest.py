"""Real shards for the tests, made once per session."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pretrain.parallel.signals import STOP_SIGNALS
from tests.order_of_files import longest_files_first
from tests.runs.small import make_small_data, write_small_run

# What the user of this machine keeps for plans (launch/planning/calibration.py) changes no test.
os.environ["XDG_CONFIG_HOME"] = f"{tempfile.gettempdir()}/fanal-tests-no-settings-{os.getuid()}"

# An example takes as long as the machine is busy; what a test may cost is not for hypothesis to say.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """The name of a case's bytes is its argument's name.

    pytest would write the bytes out. Bytes may hold the second in which they were made (gzip's header does), and xdist
    refuses to start when two workers collect different names.
    """
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers get the longest files first, by ``--no-loadscope-reorder``; a session without workers runs what it is told in that order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = longest_files_first(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test's own tensors are small: several threads of torch spin while they wait for each other, for most of what a test costs
    where every core has a worker. Programs that a test starts, and ranks, choose for themselves."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command that runs in the test's own process ends with stop signals ignored, and the next test's programs would be born so."""
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """A program that runs in the test's own process and silences warnings does so for the tests behind it."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer/ and shards/{train,validation}-{code,prose}."""
    folder = tmp_path_factory.mktemp("data")
    make_small_data(folder)
    return folder


@pytest.fixture(scope="session")
def small_run(data_folder: Path) -> Path:
    """The YAML of a run that takes seconds."""
    return write_small_run(data_folder)
