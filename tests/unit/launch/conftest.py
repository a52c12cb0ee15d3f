"""What the tests of status, and those of encoding, share."""

from pathlib import Path

import pytest

from launch import slurm
from pretrain.config.load import load_run, to_yaml
from tests.unit.launch.encoding import Encoding


@pytest.fixture
def config(tmp_path: Path, small_run: Path) -> str:
    return to_yaml(
        load_run(small_run, ["train.train_steps=1000", "train.validation_interval=100", "checkpoint.interval=100"])
    )


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*command: str) -> str:
        raise slurm.SlurmError(f"{command[0]} is not on this machine")

    monkeypatch.setattr(slurm, "ask", absent)


@pytest.fixture
def encoding(tmp_path: Path, data_folder: Path) -> Encoding:
    return Encoding(tmp_path, data_folder)
