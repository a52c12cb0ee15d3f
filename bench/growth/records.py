"""What grows with the records of a run, and with its attempts."""

import json
from collections.abc import Callable
from pathlib import Path

from bench.growth.case import Act, Growth
from fanal.run_folder import COMPLETE, JOBS_FILE, LAUNCH_DIR, METRICS_FILE, checkpoints_dir, step_name
from fanal.run_progress import newest_metrics
from launch.chain.script import CONFIG
from launch.status.status import status
from pretrain.config.load import load_run
from pretrain.convert.exporting.measured import measured_rows
from pretrain.log.finished import is_finished
from pretrain.log.record import EndRecord, StartRecord, StepRecord, ValidationRecord
from pretrain.log.sinks import JsonLines
from pretrain.log.stamp import Stamp
from pretrain.log.summary import summary

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ATTEMPTS = (1, 10, 100, 1_000)
RECORDS_OF_ATTEMPTS = 20_000
VALIDATION_INTERVAL = 100
DOMAINS: tuple[str, ...] = ("code", "prose", "web", "books")
TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
Read = Callable[[Path, int], object]
"""What is asked of a run folder, and of the last step of its run."""


def write_run(run_dir: Path, count: int, *, attempts: int = 1) -> None:
    """The log of a run of ``count`` steps as the trainer writes it, and its jobs': each attempt but the first trains a tenth of the
    one before again."""
    each = count // attempts
    with (run_dir / METRICS_FILE).open("wb+") as stream:
        for attempt in range(attempts):
            begins = attempt * each - (each // 10 if attempt else 0)
            stamp = Stamp(start=attempt + 1, began_s=0.0, start_step=begins, logged_step=attempt * each)
            sink = JsonLines(stream, METRICS_FILE, stamp)
            sink.write(_start(begins, count))
            for step in range(begins + 1, (attempt + 1) * each + 1):
                sink.write(_step(step, count))
                if step % VALIDATION_INTERVAL == 0:
                    sink.write(_validation(step))
        sink.write(EndRecord(step=count, outcome="finished", asked_by="", checkpoint="checkpoints/step-00000001"))
    with (run_dir / JOBS_FILE).open("w") as stream:
        for attempt in range(attempts):
            for line in _job(attempt, attempt * each, (attempt + 1) * each):
                stream.write(json.dumps(line) + "\n")
    (run_dir / LAUNCH_DIR).mkdir()
    (run_dir / LAUNCH_DIR / CONFIG).write_text(TINY.read_text())
    (checkpoints_dir(run_dir) / step_name(count)).mkdir(parents=True)
    (checkpoints_dir(run_dir) / step_name(count) / COMPLETE).touch()


def of_records(read: Read) -> Callable[[int, Path], Act]:
    def prepare(size: int, folder: Path) -> Act:
        write_run(folder, size)
        return lambda: read(folder, size)

    return prepare


def of_attempts(read: Read) -> Callable[[int, Path], Act]:
    def prepare(size: int, folder: Path) -> Act:
        write_run(folder, RECORDS_OF_ATTEMPTS, attempts=size)
        return lambda: read(folder, RECORDS_OF_ATTEMPTS)

    return prepare


def check_finished(run_dir: Path, last: int) -> object:
    """What a start of a finished run looks at before it verifies the checkpoint, which has no files here."""
    run = load_run(TINY, [f"run_dir={run_dir}", f"train.train_steps={last}"])
    return is_finished(run, None)  # type: ignore[arg-type]


def find_newest(run_dir: Path, last: int) -> object:
    assert next(newest_metrics(run_dir, kinds=("step",)))["step"] == last
    return None


def _start(step: int, last: int) -> StartRecord:
    return StartRecord(
        step=step, train_steps=last, headline="a model of 7.0B parameters, tensor 4, pipeline 4, data 32", device="NVIDIA H100",
        num_ranks=512, versions={"python": "3.12.1", "torch": "2.8.0", "megatron-core": "0.14.0"}, passes={"shards/code": 1.5},
    )  # fmt: skip


def _step(step: int, last: int) -> StepRecord:
    loss = 2 + 9 / (1 + step / 100)
    return StepRecord(
        step=step, consumed_samples=step * 1024, consumed_tokens=step * 1024 * 4096, global_batch_size=1024, loss=loss,
        loss_by_domain={domain: loss + place / 7 for place, domain in enumerate(DOMAINS)}, z_loss=None,
        learning_rate=3e-4 / (1 + step / last), grad_norm=0.1 + 1 / step, skipped_steps=0, skipped_spikes=0,
        step_time_s=2 + step % 97 / 1e3,
        tokens_per_second=2e6 + step % 99_991 / 3, tokens_per_second_per_gpu=4e3 + step % 99_991 / 1536, mfu_full=0.412345,
        mfu_causal=0.356789, peak_memory_bytes=3 * 2**34, eta_s=2.0 * (last - step),
    )  # fmt: skip


def _validation(step: int) -> ValidationRecord:
    losses = dict.fromkeys(DOMAINS, 2 + 9 / (1 + step / 100))
    return ValidationRecord(
        step=step, consumed_tokens=step * 1024 * 4096, validation_loss=losses, validation_time_s=20.5
    )


def _job(number: int, begins: int, ends: int) -> list[dict[str, object]]:
    job = {"job": str(number), "restart": 0}
    return [
        {"time_utc": f"2026-{1 + number // 672:02}-{1 + number // 24 % 28:02}T{number % 24:02}:00:00Z", "event": "started", **job,
         "nodes": ["n1", "n2"], "step": begins},
        {"time_utc": f"2026-{1 + number // 672:02}-{1 + number // 24 % 28:02}T{number % 24:02}:59:00Z", "event": "decided", **job,
         "by": f"{number}-0", "action": "requeue", "reason": "the slice ended", "step": ends, "restarts_without_checkpoint": 0,
         "exclude": []},
    ]  # fmt: skip


READS: dict[str, Read] = {
    "summary of a run": lambda run_dir, last: len(summary(run_dir)),
    "status of a run": lambda run_dir, last: status(run_dir)["step"],
    "model card's figures": lambda run_dir, last: len(measured_rows(run_dir, last)),
    "finished-run check": check_finished,
    "newest record": find_newest,
}
CASES = (
    *(Growth(name=name, grows_with="records", sizes=SIZES, prepare=of_records(read)) for name, read in READS.items()),
    *(
        Growth(name=f"{name}, attempts", grows_with="attempts", sizes=ATTEMPTS, prepare=of_attempts(READS[name]))
        for name in ("summary of a run", "status of a run")
    ),
)
