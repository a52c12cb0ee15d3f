"""Mistakes of a user that only the operating system or a parser notices are one line, with the type that says whose they are."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fanal.errors import DamageError, UserError
from fanal.records import read_record
from fanal.run_folder import JOB
from launch.chain.blame import PREFLIGHT_RESULT, broken_nodes
from launch.chain.this_job import here
from pretrain.config.load import load_run
from pretrain.convert.exporting.export import ExportOptions
from pretrain.convert.exporting.folder import ExportTargetError, check_target
from pretrain.data.position import read_position
from pretrain.log.run_dir import hold_run_dir
from pretrain.log.sinks import open_sinks
from pretrain.parallel.environment import rank_and_size
from tokenizer.shards.manifest import ShardManifest
from tokenizer.vocabulary.spec import MAX_VOCAB_SIZE, TokenizerSpec

NESTED = "[" * 100_000
TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def test_a_folder_where_the_metrics_belong_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    run: Any = SimpleNamespace(run_dir=str(tmp_path))
    world: Any = SimpleNamespace(rank=0)
    with (
        pytest.raises(UserError, match=r"run_dir .* must be a folder .*: metrics.jsonl: Is a directory"),
        open_sinks(run, world, start_step=0),
    ):
        pass


def test_a_folder_where_the_lock_belongs_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(UserError, match=r"run_dir .* must be a folder .*: lock: Is a directory"),
        hold_run_dir(tmp_path, rank=0),
    ):
        pass


@pytest.mark.parametrize("key", ["run_dir", "checkpoint.init_from"])
def test_a_nul_in_a_path_is_refused_with_a_path_that_works(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key} \('runs/a\\x00b'\) must not hold a NUL character; 'runs/ab' works"):
        load_run(TINY, [f'{key}="runs/a\\0b"'])
    load_run(TINY, [f"{key}=runs/ab"])


def test_a_rank_that_is_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"RANK \('x'\) must be a whole number"):
        rank_and_size()


def test_json_nested_beyond_what_python_reads_is_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(NESTED)
    with pytest.raises(DamageError, match=r"cannot be read as JSON .*; encode again"):
        read_record(ShardManifest, tmp_path / "a.json", remedy="encode again", error=DamageError)
    with pytest.raises(DamageError, match="is not the data position of a checkpoint"):
        read_position(tmp_path / "a.json")


def test_a_data_position_that_is_not_one_is_damage(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(DamageError, match=r"is not the data position of a checkpoint .*key 'consumed_hash' is missing"):
        read_position(tmp_path / "data.json")


def test_files_of_a_job_that_are_not_text_are_not_a_crash(tmp_path: Path) -> None:
    for name in (JOB, PREFLIGHT_RESULT):
        (tmp_path / name).write_bytes(b"\xff\xfe")
    assert broken_nodes(tmp_path) == {}
    with pytest.raises(UserError, match="must be the launch folder of a run"):
        here(tmp_path)


def test_more_pieces_than_sentencepiece_counts_are_refused() -> None:
    with pytest.raises(UserError, match=rf"vocab_size \({MAX_VOCAB_SIZE + 1}\) must be from 1 to {MAX_VOCAB_SIZE}"):
        TokenizerSpec(vocab_size=MAX_VOCAB_SIZE + 1)


def test_an_export_is_given_a_name_and_a_licence_that_its_files_can_hold(tmp_path: Path) -> None:
    with pytest.raises(ExportTargetError, match=r"must be UTF-8.*; my-export works"):
        check_target(tmp_path / os.fsdecode(b"a\xff"), weight_bytes=1)
    check_target(tmp_path / "my-export", weight_bytes=1)
    with pytest.raises(UserError, match=r"must be printable and on one line; apache-2.0 works"):
        ExportOptions(date="2026-11-28", licence="mit\nlicense: apache-2.0")
    ExportOptions(date="2026-11-28", licence="apache-2.0")
