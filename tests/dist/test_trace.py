"""``trace`` against what spies saw in real runs: four sources, mixtures that change, growing batches, resumes in other layouts with
other batches, and a kill whose steps are lost."""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pretrain.history.data import open_history_data
from pretrain.history.history import History, history_of
from pretrain.trace.step import SampleTrace, Wanted, trace_step
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2, TP2
from tests.unit.data.objective_runs import write_documents

SEQ_LENGTH = 64
PAIRS = 200
RAMP = "train.batch_ramp={start: 4, increment: 4, samples: 40}"
SPY, DIES = "every_rank_writes_what_it_trains_on", "every_rank_writes_and_dies_at_step_14"
LATE = "every_rank_writes_and_one_replica_reads_a_token_late"


@dataclass(frozen=True)
class Spied:
    """A run, and what its ranks held: by step, the rows of the global batch."""

    folder: Path
    rows: dict[int, list[list[int]]]


def rows_seen(folder: Path) -> dict[int, list[list[int]]]:
    """The rows that a process's ranks have held since it started, by step, in the order of the global batch."""
    held: dict[int, dict[int, list[list[list[int]]]]] = {}
    for path in sorted(folder.glob("read-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            of_step = held.setdefault(line["step"], {})
            assert of_step.setdefault(line["replica"], line["held"]) == line["held"], "tensor ranks hold the same"
        path.unlink()
    return {
        step: [
            row
            for micro in zip(*(of[replica] for replica in sorted(of)), strict=True)
            for rows in micro
            for row in rows
        ]
        for step, of in held.items()
    }


def four_sources(data_folder: Path, folder: Path) -> list[str]:
    """Overrides: documents of up to 150 and of up to 30 tokens, in code and prose; three mixtures of them."""
    for name, longest in (("long", 150), ("short", 30)):
        (folder / name).mkdir()
        write_documents(data_folder, folder / name, longest=longest)
    prefixes = [f"{folder}/{name}/train-{domain}" for name in ("long", "short") for domain in ("code", "prose")]
    first, second, third, fourth = prefixes

    def mixture(*shares: tuple[str, float]) -> str:
        return "[" + ", ".join(f"{{prefix: {prefix}, weight: {weight}}}" for prefix, weight in shares) + "]"

    later = (
        f"{{start_sample: 30, train: {mixture((second, 1), (third, 5), (fourth, 1))}}}, "
        f"{{start_sample: 101, train: {mixture((first, 1), (fourth, 2))}}}"
    )
    return [
        f"data.train={mixture((first, 2), (second, 1), (third, 1))}",
        f"data.phases=[{later}]",
        f"data.validation=[{{prefix: {folder}/long/validation-code}}]",
        "data.document_mask=true",
    ]


@pytest.fixture(scope="module")
def overrides(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return four_sources(data_folder, tmp_path_factory.mktemp("four-sources"))


def train_through_resumes(config: Path, folder: Path, overrides: list[str]) -> Spied:
    """One rank, then two tensor ranks with another batch until they die, then two replicas with yet another one."""
    common = [*overrides, RAMP, "checkpoint.interval=4", "train.validation_interval=null"]
    first = run_and_trace(make_run(config, folder, *common, "train.train_steps=8", "train.global_batch_size=12"), SPY)
    assert first.exit_code == 0, first.failure
    rows = rows_seen(folder)
    stage = "train.batch_stages=[{start_sample: 70, global_batch_size: 6}]"
    second = make_run(config, folder, *common, *TP2, "train.train_steps=20", "train.global_batch_size=12", stage)
    killed = run_and_trace(second, DIES, fresh=False)
    assert killed.exit_code != 0 and "resumed after step 8" in killed.output
    rows |= (lost := rows_seen(folder))
    assert max(lost) == 13, "the step behind the checkpoint is trained, and lost"
    batches = "train.batch_stages=[{start_sample: 70, global_batch_size: 8}]"
    third = make_run(
        config, folder, *common, *DP2, "train.train_steps=20", "train.global_batch_size=12", batches,
        "train.micro_batch_size=1",
    )  # fmt: skip
    resumed = run_and_trace(third, SPY, fresh=False)
    assert resumed.exit_code == 0 and "resumed after step 12" in resumed.output, resumed.failure
    again = rows_seen(folder)
    assert min(again) == 13 and len(again[13]) != len(lost[13]), "it is trained again, otherwise"
    return Spied(folder, rows | again)


@pytest.fixture(scope="module")
def spied(small_run: Path, overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Spied:
    return train_through_resumes(small_run, tmp_path_factory.mktemp("spied"), overrides)


def tokens_of(prefix: str) -> np.ndarray:
    return np.fromfile(f"{prefix}.bin", json.loads(Path(f"{prefix}.json").read_text())["dtype"])


def documents_of(prefix: str) -> np.ndarray:
    """The document of each token, from the lengths in the index, without a search."""
    count = json.loads(Path(f"{prefix}.json").read_text())["num_documents"]
    return np.repeat(np.arange(count), np.fromfile(f"{prefix}.idx", "<i4", count=count, offset=34))


def assert_is(traced: SampleTrace, row: list[int]) -> None:
    """What is traced is this row: every token, and each of the document that is named."""
    tokens, documents = tokens_of(traced.source), documents_of(traced.source)
    found: list[int] = []
    for part in traced.parts:
        assert part.position == len(found)
        held = slice(part.start_token, part.start_token + part.num_tokens)
        found += tokens[held].tolist()
        assert (documents[held] == part.document).all()
        own = np.flatnonzero(documents == part.document)
        assert (part.offset, part.document_tokens) == (part.start_token - own[0], len(own))
    assert found == row


def assert_traces(history: History, rows: dict[int, list[list[int]]], pairs: int = PAIRS) -> None:
    """Random samples of random steps are traced to what the spies saw; the steps have as many samples as they saw."""
    data, draw = open_history_data(history), random.Random(1)
    for step, held in rows.items():
        assert len(history.samples_of_step(step)) == len(held), f"samples of step {step}"
    everything = [(step, at) for step, held in rows.items() for at in range(len(held))]
    for step, at in draw.choices(everything, k=pairs):
        sample = history.samples_of_step(step)[at]
        assert history.step_of_sample(sample) == step
        (traced,) = trace_step(history, data, Wanted(step=step, sample=sample)).samples
        assert traced.sample == sample
        assert_is(traced, rows[step][at])


def test_every_traced_token_is_one_that_the_spies_saw(spied: Spied) -> None:
    assert sorted(spied.rows) == list(range(1, 21))
    sizes = [len(spied.rows[step]) for step in range(1, 21)]
    assert len(set(sizes)) > 3, "the batch must change"
    history = history_of(spied.folder)
    assert_traces(history, spied.rows)
    assert history.trained_to == history.planned_to == 20
    data = open_history_data(history)
    named = {sample.source for step in spied.rows for sample in trace_step(history, data, Wanted(step=step)).samples}
    assert len(named) == 4


def test_checkpoints_alone_tell_the_same(spied: Spied, tmp_path: Path) -> None:
    shutil.copytree(spied.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "starts", ignore_errors=True)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    history = history_of(tmp_path / "run")
    assert all(segment.start is None for segment in history.segments)
    assert_traces(history, spied.rows)


def test_a_replica_that_reads_something_else_is_noticed(small_run: Path, overrides: list[str], tmp_path: Path) -> None:
    steps = ("train.train_steps=3", "train.global_batch_size=8", "train.validation_interval=null")
    wrong = run_and_trace(make_run(small_run, tmp_path, *overrides, *DP2, *steps), LATE)
    assert wrong.exit_code == 0, "the run itself does not notice"
    history, rows = history_of(tmp_path), rows_seen(tmp_path)
    data = open_history_data(history)
    for step, held in rows.items():
        traced = trace_step(history, data, Wanted(step=step)).samples
        assert {sample.replica for sample in traced} == {0, 1}
        for sample, row in zip(traced, held, strict=True):
            if sample.replica == 0:
                assert_is(sample, row)
                continue
            with pytest.raises(AssertionError):
                assert_is(sample, row)
    with pytest.raises(AssertionError):
        assert_traces(history, rows)
