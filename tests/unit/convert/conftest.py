"""Hugging Face folders for the tests, and one thread: the models are small, and threads cost them more than they give."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pretrain.convert.exporting.export import ExportOptions, export
from tests.unit.convert.folders import MakeFolder, save_model

V1 = Path(__file__).parents[2] / "golden" / "formats" / "v1"


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes a folder; see ``save_model``."""

    def make(name: str = "hf", **options: Any) -> Path:
        return save_model(tmp_path / name, **options)

    return make


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("shared") / "hf", shard="60KB")


@pytest.fixture
def folder(shared_folder: Path, tmp_path: Path) -> Path:
    """A folder of several shards, to spoil."""
    return Path(shutil.copytree(shared_folder, tmp_path / "hf"))


@pytest.fixture(scope="session")
def fresh_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of today's code, of the checkpoint that is kept."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("exports") / "export"
    options = ExportOptions(date="2026-01-01", with_shards=False, adds_bos=True)
    export(V1 / "checkpoint", folder, options, [f"data.tokenizer={V1 / 'tokenizer'}"])
    return folder


@pytest.fixture
def exported(fresh_export: Path, tmp_path: Path) -> Path:
    """A copy, to spoil."""
    return Path(shutil.copytree(fresh_export, tmp_path / "export"))
