"""Sinks elsewhere: a thread beside training, the history that each start goes on from, and a package that is not there."""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.run_folder import METRICS_FILE
from pretrain.checkpoint.saving.save import SaveReport
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.log import beside, elsewhere, sinks
from pretrain.log.beside import beside_training
from pretrain.log.elsewhere import check_sinks, flat_config, identity, keep_identity
from pretrain.log.history import Past, history
from pretrain.log.record import StartRecord, ValidationRecord
from pretrain.log.sinks import open_sinks
from pretrain.log.stability_record import Norms, StabilityRecord
from tests.unit.log.test_sinks import STEP, WORLD, run

__all__ = ["run"]
LAYERS = [1.0, float("nan")]
STABILITY = StabilityRecord(
    step=2, consumed_tokens=0, residual_rms=LAYERS, residual_max=LAYERS, attention_rms=LAYERS, feed_forward_rms=LAYERS,
    attention_logit_max=LAYERS, gradient_norm=LAYERS, weight_norm=LAYERS, update_norm=LAYERS, update_ratio=LAYERS,
    outside_layers={"embedding": Norms(gradient_norm=1, weight_norm=2, update_norm=3, update_ratio=4)}, embedding_rms=1.0,
    output_logit_max=2.0, log_denominator_mean=3.0,
)  # fmt: skip


class Kept:
    """A store that keeps what it gets, and fails or waits where it is told to."""

    def __init__(self, *, fails_at: int = 0, waits: threading.Event | None = None) -> None:
        self.taken, self.closed, self._fails_at, self._waits = list[int](), False, fails_at, waits

    def take(self, past: Past) -> None:
        if self._waits is not None:
            self._waits.wait(30)
        if past.record.step == self._fails_at:
            raise ConnectionError("no network")
        self.taken.append(past.record.step)

    def farewell(self) -> str:
        return "see there"

    @contextlib.contextmanager
    def open(self) -> Iterator["Kept"]:
        yield self
        self.closed = True


def start(step: int) -> StartRecord:
    return StartRecord(step=step, train_steps=9, headline="", device="", num_ranks=1, versions={}, passes={})


def test_a_thread_gets_every_record_in_order_and_the_end_says_what_it_cost(capsys: pytest.CaptureFixture[str]) -> None:
    store = Kept()
    with beside_training("kept", store.open) as sink:
        for step in range(1, 501):
            sink.write(replace(STEP, step=step))
    assert store.taken == list(range(1, 501)) and store.closed
    said = re.search(r"kept: 500 records; ([0-9.]+) s of training's time, .*; see there\n", capsys.readouterr().out)
    assert said and float(said[1]) < 0.5


def test_a_store_that_fails_is_named_once_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    store = Kept(fails_at=3)
    with beside_training("kept", store.open) as sink:
        for step in range(1, 100):
            sink.write(replace(STEP, step=step))
            time.sleep(0.001)
    assert store.taken == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "kept takes no more records, and training continues: ConnectionError: no network"
    ]


def test_a_store_that_cannot_be_opened_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    @contextlib.contextmanager
    def broken() -> Iterator[Kept]:
        raise SystemExit("no disk")
        yield Kept()

    with beside_training("kept", broken) as sink:
        sink.write(STEP)
    assert [record.getMessage() for record in caplog.records] == [
        "kept takes no more records, and training continues: SystemExit: no disk"
    ]


def test_a_store_that_hangs_holds_a_bounded_number_and_delays_the_end_by_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(beside, "MOST_WAITING", 10)
    monkeypatch.setattr(beside, "CLOSE_S", 0.2)
    waits = threading.Event()
    began = time.monotonic()
    with beside_training("kept", Kept(waits=waits).open) as sink:
        for step in range(1, 1001):
            sink.write(replace(STEP, step=step))
    assert time.monotonic() - began < 5
    waits.set()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "kept is slower than training" in caplog.text
    assert "kept: not finished after 0.2 s, and left behind; metrics.jsonl has every figure" in capsys.readouterr().out


def test_the_history_has_each_step_as_it_was_trained_last(run: RunConfig) -> None:
    """Three starts: from 0 to 5, from 2 to 6, from 3 on."""
    report = SaveReport(step=2, path="x", num_bytes=1, stall_s=0.1, save_s=1.0)
    validation = ValidationRecord(step=2, consumed_tokens=0, validation_loss={"code": 7.5}, validation_time_s=1.0)
    for number, (first, last) in enumerate(((0, 5), (2, 6))):
        with open_sinks(run, WORLD, start_step=first) as opened:
            opened.write(start(first))
            for step in range(first + 1, last + 1):
                opened.write(replace(STEP, step=step, loss=float("nan") if step == 1 else step + 10.0 * number))
                if step == 2:
                    for record in (validation, STABILITY, report):
                        opened.write(record)
    with open_sinks(run, WORLD, start_step=3) as opened:
        opened.write(start(3))
        opened.write(replace(STEP, step=4, loss=24.0))
        assert opened.stamp is not None
        past = [one.record for one in history(Path(run.run_dir), opened.stamp)]
    assert [(type(record).__name__, record.step) for record in past] == [
        ("StepRecord", 1), ("StepRecord", 2), ("ValidationRecord", 2), ("StabilityRecord", 2), ("SaveReport", 2), ("StepRecord", 3),
    ]  # fmt: skip
    assert repr(past[0]) == repr(replace(STEP, step=1, loss=float("nan"))), (
        "null is NaN again, or None where that is meant"
    )
    assert past[1:3] == [replace(STEP, step=2, loss=2.0), validation] and repr(past[3]) == repr(STABILITY)
    assert past[4:] == [report, replace(STEP, step=3, loss=13.0)]


def test_a_line_of_another_kind_or_form_is_left_out(run: RunConfig) -> None:
    folder = Path(run.run_dir)
    folder.mkdir()
    (folder / METRICS_FILE).write_text(
        '{"kind": "step", "step": 1}\n{"kind": "later", "step": 1}\n{"kind": "stability", "step": 1}\n'
    )
    with open_sinks(run, WORLD, start_step=3) as opened:
        assert opened.stamp is not None and list(history(folder, opened.stamp)) == []


def test_a_sink_whose_package_is_not_there_is_refused_with_the_command_that_installs_it(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = load_run_with(run, "log.sinks=[wandb]")
    monkeypatch.setitem(elsewhere.NEEDS, "wandb", ("json", "no_such_module"))
    with pytest.raises(UserError) as refused:
        check_sinks(chosen.log)
    assert str(refused.value) == (
        "log.sinks (wandb) needs no_such_module, which is not installed; pip install 'fanal[wandb]' installs it, and "
        "log.sinks=[] trains without"
    )
    check_sinks(run.log)
    monkeypatch.setitem(elsewhere.NEEDS, "wandb", ("json",))
    check_sinks(chosen.log)


def load_run_with(run: RunConfig, *overrides: str) -> RunConfig:
    return load_run(Path(run.run_dir).parent / "run.yaml", [f"run_dir={run.run_dir}", *overrides])


def test_every_sink_that_a_config_may_name_can_be_opened_and_needs_something() -> None:
    assert set(elsewhere.NEEDS) == set(sinks.OPENERS) - {"tensorboard"}


def test_a_sink_that_is_unknown_is_refused(run: RunConfig) -> None:
    with pytest.raises(UserError, match=r"log\.sinks"):
        load_run_with(run, "log.sinks=[wandbb]")


def test_only_the_first_rank_opens_a_sink(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [Kept(), Kept()]
    chosen = load_run_with(run, "log.sinks=[mlflow]", "log.tensorboard=false")
    for store, rank in zip(stores, (0, 1), strict=True):
        monkeypatch.setitem(sinks.OPENERS, "mlflow", lambda opening, store=store: beside_training("kept", store.open))
        with open_sinks(chosen, replace(WORLD, rank=rank, dp_rank=rank), start_step=0) as opened:
            opened.write(STEP)
    assert [store.taken for store in stores] == [[1], []]


def test_the_identity_of_a_run_is_kept_in_its_folder(tmp_path: Path) -> None:
    first, is_known = identity(tmp_path / "wandb")
    assert not is_known
    keep_identity(tmp_path / "wandb", first)
    assert identity(tmp_path / "wandb") == (first, True)


def test_a_configuration_leaves_the_machine_without_credentials(run: RunConfig) -> None:
    config = load_run_with(run, "data.tokenizer=https://me:hunter22@host/x")
    assert flat_config(config)["data.tokenizer"] == "https://(hidden)host/x"
    assert flat_config(config)["train.train_steps"] == 10 and flat_config(config)["data.train.0.prefix"] == "a"
