"""The ledger of real runs, against the rows that their ranks held in every step: through a kill, resumes in other layouts and with
other batches, mixtures that change, and a second run that starts from the first one's checkpoint."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fanal.errors import DamageError
from fanal.records import has_own_hash
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.config_file import read_config
from pretrain.checkpoint.disk.origin import sealed_hash
from pretrain.drafts import annex_xi, eu_public_summary, model_documentation
from pretrain.drafts.facts import facts_of
from pretrain.ledger import data_read as data_read_module
from pretrain.ledger.data_read import Amounts
from pretrain.ledger.documents_read import Use
from pretrain.ledger.ledger import Ledger, ledger_of, ledger_text
from pretrain.ledger.models import SECTIONS
from pretrain.log.energy_file import RAPL
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2, TP2
from tests.runs.labelled_sources import labels_of, write_labelled_sources
from tests.unit.drafts.followed_paths import assert_paths

SEQ_LENGTH = 64
SPY, DIES = "every_rank_writes_what_it_trains_on", "every_rank_writes_and_dies_at_step_14"
HEATS = "every_rank_writes_and_a_counter_begins_again"
PARTS = ("data.train", "data.phases[0].train", "data.phases[1].train", "data.train")
"""Mixtures of the two runs, in the order of the ledger's parts."""
STARTS_OF_PARTS = (0, 30, 101)


@dataclass(frozen=True)
class Chain:
    """Two runs, the second of which began with the last checkpoint of the first."""

    first: Path
    second: Path
    prefixes: list[str]

    @property
    def folders(self) -> tuple[Path, Path]:
        return self.first, self.second


def mixture(*shares: tuple[str, float]) -> str:
    return "[" + ", ".join(f"{{prefix: {prefix}, weight: {weight}}}" for prefix, weight in shares) + "]"


@pytest.fixture(scope="module")
def chain(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Eight steps on one rank; then on two tensor ranks with another batch until step 14, which kills them behind the checkpoint of
    step 12; then on two replicas with a third batch to step 20. And ten steps of another run, on other mixtures, from there on."""
    folder = tmp_path_factory.mktemp("ledger")
    web, books, code, poems, validation = prefixes = write_labelled_sources(data_folder, folder)
    first, second = folder / "first", folder / "second"
    later = (
        f"{{start_sample: 30, train: {mixture((books, 1), (code, 5), (poems, 3))}}}, "
        f"{{start_sample: 101, train: {mixture((web, 1), (poems, 2))}}}"
    )
    common = [
        f"data.train={mixture((web, 2), (books, 1), (code, 1))}", f"data.phases=[{later}]",
        f"data.validation=[{{prefix: {validation}}}]", "data.document_mask=true", "data.validation_fraction=0.15",
        "train.batch_ramp={start: 4, increment: 4, samples: 40}", "checkpoint.interval=4", "train.global_batch_size=12",
    ]  # fmt: skip
    done = run_and_trace(make_run(small_run, first, *common, "train.train_steps=8"), SPY)
    assert done.exit_code == 0, done.failure
    stage = "train.batch_stages=[{start_sample: 70, global_batch_size: 6}]"
    killed = run_and_trace(make_run(small_run, first, *common, *TP2, "train.train_steps=20", stage), DIES, fresh=False)
    assert killed.exit_code != 0 and max(killed.losses) == 13
    stage, small = "train.batch_stages=[{start_sample: 70, global_batch_size: 8}]", "train.micro_batch_size=1"
    resumed = make_run(small_run, first, *common, *DP2, "train.train_steps=20", stage, small)
    done = run_and_trace(resumed, SPY, fresh=False)
    assert done.exit_code == 0 and "resumed after step 12" in done.output, done.failure
    next_run = make_run(
        small_run, second, f"data.train={mixture((books, 1), (poems, 1))}", f"data.validation=[{{prefix: {code}}}]",
        f"checkpoint.init_from={first}", "checkpoint.init_optimizer=fresh", "data.seed=7",
    )  # fmt: skip
    done = run_and_trace(next_run, HEATS)
    assert done.exit_code == 0, done.failure
    return Chain(first, second, prefixes)


def rows_of_steps(folder: Path) -> Iterator[tuple[int, list[list[int]]]]:
    """The rows that each step held, in the order of the global batch; of a step that was trained again those of the last time."""
    of_ranks = [
        {line["step"]: line for line in map(json.loads, path.read_text().splitlines())}  # the last of each step
        for path in sorted(folder.glob("read-*.jsonl"))
    ]
    for step, line in sorted(of_ranks[0].items()):
        replicas = line["replicas"]  # rank 0 was there every time; a rank of an earlier layout may say something else
        held = {
            of_rank[step]["replica"]: of_rank[step]["held"]
            for of_rank in reversed(of_ranks)
            if step in of_rank and of_rank[step]["replicas"] == replicas
        }
        batches = [held[replica] for replica in range(replicas)]
        yield step, [row for micro in zip(*batches, strict=True) for rows in micro for row in rows]


@dataclass
class Text:
    """A shard, read plainly."""

    prefix: str
    tokens: bytes
    itemsize: int
    document: np.ndarray
    """Of each token."""

    def places(self, row: list[int]) -> list[int]:
        wanted, found, at = np.array(row, f"<u{self.itemsize}").tobytes(), [], -1
        while (at := self.tokens.find(wanted, at + 1)) >= 0:
            if at % self.itemsize == 0:
                found.append(at // self.itemsize)
        return found


def text_of(prefix: str) -> Text:
    stated = json.loads(Path(f"{prefix}.json").read_text())
    lengths = np.fromfile(f"{prefix}.idx", "<i4", count=stated["num_documents"], offset=34)
    itemsize = np.dtype(stated["dtype"]).itemsize
    return Text(prefix, Path(f"{prefix}.bin").read_bytes(), itemsize, np.repeat(np.arange(len(lengths)), lengths))


Sums = dict[str, dict[str | None, tuple[int, int, int]]]
"""(Tokens, different tokens, documents) by dimension and label."""


def summed(predicted: Counter, read: set) -> Sums:
    """Args: predicted: times, by (prefix, token, document); read: such triples."""
    tokens: dict[str, Counter] = defaultdict(Counter)
    distinct: dict[str, Counter] = defaultdict(Counter)
    documents: dict[str, dict[str | None, set]] = defaultdict(lambda: defaultdict(set))
    for (prefix, _, document), times in predicted.items():
        for dimension, label in labels(prefix, document):
            tokens[dimension][label] += times
    for prefix, _, document in read:
        for dimension, label in labels(prefix, document):
            distinct[dimension][label] += 1
            documents[dimension][label].add((prefix, document))
    return {
        dimension: {
            label: (tokens[dimension][label], count, len(documents[dimension][label])) for label, count in by.items()
        }
        for dimension, by in distinct.items()
    }


def labels(prefix: str, document: int) -> list[tuple[str, str | None]]:
    return [("source", prefix), *labels_of(Path(prefix).name, document).items()]


def by_brute_force(chain: Chain) -> tuple[list[Sums], Sums]:
    """The sums of each part and of all, from the rows that the ranks held: each is looked for in the shards' files."""
    texts = [text_of(prefix) for prefix in chain.prefixes[:-1]]
    predicted, read = [Counter() for _ in PARTS], [set() for _ in PARTS]
    for run, folder in enumerate(chain.folders):
        sample = 0
        for _, rows in rows_of_steps(folder):
            for row in rows:
                part = 3 if run else sum(sample >= start for start in STARTS_OF_PARTS) - 1
                ((text, at),) = [(text, at) for text in texts for at in text.places(row)]
                for place in range(at, at + SEQ_LENGTH + 1):
                    key = text.prefix, place, int(text.document[place])
                    read[part].add(key)
                    predicted[part][key] += place > at
                sample += 1
    in_all = Counter()
    for counts in predicted:
        in_all.update(counts)
    return [summed(*both) for both in zip(predicted, read, strict=True)], summed(in_all, set().union(*read))


def as_sums(amounts: Amounts) -> Sums:
    return {
        dimension: {
            label: (amount.tokens, amount.distinct_tokens, amount.documents)
            for label, amount in by.items()
            if amount.distinct_tokens
        }
        for dimension, by in amounts.items()
    }


@pytest.fixture(scope="module")
def brute(chain: Chain) -> tuple[list[Sums], Sums]:
    return by_brute_force(chain)


@pytest.fixture(scope="module")
def ledger(chain: Chain) -> Ledger:
    return ledger_of(chain.second)


def test_totals_are_the_sum_over_all_rows_that_ranks_held(ledger: Ledger, brute: tuple[list[Sums], Sums]) -> None:
    of_parts, in_all = brute
    assert tuple(part.mixture for part in ledger.data.parts) == PARTS
    for part, plain in zip(ledger.data.parts, of_parts, strict=True):
        assert as_sums(part.amounts) == plain, part.mixture
    assert as_sums(ledger.data.in_all) == in_all


def test_tokens_are_those_that_the_runs_say_they_consumed(chain: Chain, ledger: Ledger) -> None:
    for run in ledger.runs:
        records = [json.loads(line) for line in (Path(run.run_dir) / "metrics.jsonl").read_text().splitlines()]
        consumed = [record["consumed_tokens"] for record in records if record["kind"] == "step"][-1]
        assert run.tokens == consumed
        assert sum(part.tokens for part in ledger.data.parts if part.run_dir == run.run_dir) == consumed
    assert all(part.padding_tokens == 0 for part in ledger.data.parts)
    passes = {Path(name or "").name: amount.passes for name, amount in ledger.data.in_all["source"].items()}
    assert (passes["poems"] or 0) > 3 and (passes["web"] or 9) < 1


@pytest.mark.parametrize(
    "fault", ["draws of an earlier mixture again", "lost steps counted", "the earlier run forgotten"]
)
def test_a_planted_fault_is_found(
    chain: Chain, brute: tuple[list[Sums], Sums], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "draws of an earlier mixture again":
        monkeypatch.setattr(
            data_read_module, "Use",
            lambda *, first_draw, end_draw, **rest: Use(first_draw=0, end_draw=end_draw - first_draw, **rest),
        )  # fmt: skip
    elif fault == "lost steps counted":
        samples = data_read_module.trained_samples
        monkeypatch.setattr(data_read_module, "trained_samples", lambda history: samples(history) + 6)
    found = ledger_of(chain.second, chain=fault != "the earlier run forgotten").data
    assert as_sums(found.in_all) != brute[1]


def test_every_start_says_who_and_what_and_what_was_lost(chain: Chain, ledger: Ledger) -> None:
    first, second = ledger.runs
    assert [(start.number, start.step, start.last_step, start.lost_steps) for start in first.starts] == [
        (1, 0, 8, 0), (2, 8, 13, 1), (3, 12, 20, 0),
    ]  # fmt: skip
    assert [start.end and start.end["outcome"] for start in first.starts] == ["finished", None, "finished"]
    found = ledger.as_json()
    starts = found["runs"][0]["starts"]
    assert starts[1]["lost_tokens"] == 6 * SEQ_LENGTH
    assert [start["num_ranks"] for start in starts] == [1, 2, 2]
    assert all(start["user"] and start["hosts"] and start["code"]["version"] for start in starts)
    assert "parallel.tensor_model_parallel_size: 1 -> 2" in starts[1]["changes"]
    assert (first.trained_to, second.trained_to) == (20, 10)
    assert found["not_known"][0].startswith(f"1 start(s) of {chain.first} left no end")


def test_hours_are_all_there_and_add_up(ledger: Ledger) -> None:
    for run in ledger.runs:
        for start in run.as_hours():
            assert (
                start is not None and start.total is not None and start.startup is not None and start.other is not None
            )
            named = start.useful + start.lost + start.evaluation + start.save + start.startup + start.other
            assert named == pytest.approx(start.total)
            assert start.useful > 0
    of_killed = ledger.runs[0].as_hours()[1]
    assert of_killed is not None and 0 < of_killed.lost < of_killed.useful
    of_starts = [start.total or 0 for run in ledger.runs for start in run.as_hours() if start is not None]
    assert len(of_starts) == 4 and ledger.hours.total == pytest.approx(sum(of_starts))
    assert 0 < (ledger.hours.goodput or 0) < 1


def test_models_operations_and_checkpoints_are_those_of_the_runs(chain: Chain, ledger: Ledger) -> None:
    found = ledger.as_json()
    for run in found["runs"]:
        config = read_config(newest_checkpoint(Path(run["run_dir"])))
        assert run["model"]["configuration"] == {name: config[name] for name in SECTIONS}
        assert run["flops"]["full"] == run["tokens"] * run["model"]["flops_per_token_full"]
    first, second = found["runs"]
    assert first["flops"]["lost_full"] == 6 * SEQ_LENGTH * first["model"]["flops_per_token_full"]
    assert found["flops"]["full"] == first["flops"]["full"] + second["flops"]["full"]
    assert first["checkpoint"] == second["started_from"] and first["started_from"] is None
    sealed = newest_checkpoint(chain.second)
    assert second["checkpoint"] == {"name": sealed.name, "step": 10, "manifest_sha256": sealed_hash(sealed)}
    assert second["started_from"]["manifest_sha256"] == sealed_hash(newest_checkpoint(chain.first))
    elapsed = [start["elapsed_s"] for run in found["runs"] for start in run["starts"]]
    assert found["elapsed_s"] == pytest.approx(sum(elapsed))
    (by_device,) = found["rank_hours_by_device"]
    assert by_device["device"] == "cpu" and by_device["hours"] == pytest.approx(found["rank_hours"]["total"])


def test_drafts_of_the_chain_name_places_in_its_ledger(chain: Chain, ledger: Ledger, tmp_path: Path) -> None:
    facts = facts_of(chain.second)
    printed = json.loads(ledger_text(ledger))
    for document_of in (eu_public_summary.document_of, model_documentation.document_of, annex_xi.document_of):
        assert assert_paths(document_of(facts), printed) > 2
    done = CliRunner().invoke(cli, ["draft", str(chain.second), "--to", str(tmp_path / "drafts")])
    assert done.exit_code == 0, done.output
    summary = (tmp_path / "drafts" / "eu-public-summary.md").read_text()
    assert printed["ledger_sha256"] in summary and "| lemonde.fr |" in summary
    form = (tmp_path / "drafts" / "model-documentation.md").read_text()
    assert sealed_hash(newest_checkpoint(chain.second)) in form and "MWh, measured" in form


def newest_checkpoint(run_dir: Path) -> Path:
    return max(folder for folder in (run_dir / "checkpoints").iterdir() if (folder / "COMPLETE").is_file())


def test_what_is_held_out_is_named_and_what_was_trained_on_before(chain: Chain, ledger: Ledger) -> None:
    held = {(Path(held.run_dir).name, Path(held.prefix).name, held.by): held for held in ledger.data.held_out}
    assert held["first", "validation", "data.validation"].trained_by == ()
    by_fraction = held["first", "web", "data.validation_fraction"]
    assert by_fraction.trained_by == () and 0.13 < by_fraction.tokens / 9_000 < 0.2
    assert held["second", "code", "data.validation"].trained_by == (str(chain.first),)
    document = text_of(chain.prefixes[0]).document
    assert by_fraction.documents == len(set(document[-by_fraction.tokens :].tolist()))
    available = ledger.data.in_all["source"][chain.prefixes[0]].available_tokens
    assert available + by_fraction.tokens == 9_000


def test_an_older_run_without_files_of_its_starts_has_the_same_totals(
    chain: Chain, brute: tuple[list[Sums], Sums], tmp_path: Path
) -> None:
    shutil.copytree(chain.first, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "starts")
    lines = [json.loads(line) for line in (tmp_path / "old" / "metrics.jsonl").read_text().splitlines()]
    young = ("start", "time_unix_s", "elapsed_s", "replay", "save_wait_s")
    old = [{name: value for name, value in line.items() if name not in young} for line in lines]
    (tmp_path / "old" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    found = ledger_of(tmp_path / "old")
    for part, plain in zip(found.data.parts, brute[0][:3], strict=True):
        assert as_sums(part.amounts) == plain
    (run,) = found.runs
    assert [(start.number, start.step, start.last_step, start.lost_steps) for start in run.starts] == [
        (None, 0, 8, 0), (None, 8, 13, 1), (None, 12, 20, 0),
    ]  # fmt: skip
    assert found.hours.total is None and found.hours.useful > 0 and run.elapsed_s is None
    assert run.flops.lost_full is None and run.checkpoint is not None and run.checkpoint.step == 20
    assert "only the log tells" in found.not_known()[0]


def test_the_command_prints_json_with_its_own_hash_and_tables_of_80_columns(chain: Chain) -> None:
    as_json = CliRunner().invoke(cli, ["ledger", str(chain.second), "--json"])
    assert as_json.exit_code == 0, as_json.output
    found = json.loads(as_json.output)
    assert has_own_hash(found, "ledger_sha256")
    found["data"]["in_all"]["by_host"][0]["tokens"] += 1
    assert not has_own_hash(found, "ledger_sha256")
    tables = CliRunner().invoke(cli, ["ledger", str(chain.second), "--co2-g-per-kwh", "50"])
    assert tables.exit_code == 0, tables.output
    assert max(map(len, tables.output.splitlines())) <= 80
    assert "lemonde.fr" in tables.output and "cc-by-4.0" in tables.output and "kWh by RAPL" in tables.output
    alone = CliRunner().invoke(cli, ["ledger", str(chain.first)])
    assert "energy: -, CO2: -" in alone.output


def test_the_energy_of_a_run_is_what_its_counters_rose_by_and_what_was_not_measured_is_named(ledger: Ledger) -> None:
    (share,) = ledger.energy.shares
    assert (share.run_dir, share.starts, share.method) == (ledger.run_dir, (1,), RAPL)
    assert ledger.energy.joules == share.joules == pytest.approx(10.0)
    assert "the energy of 3 start(s) was not measured, and is not in the sum" in ledger.not_known()


def test_what_was_altered_is_refused(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.first, tmp_path / "altered")
    path = tmp_path / "altered" / "starts" / "start-00002.json"
    path.write_text(path.read_text().replace('"num_ranks": 2', '"num_ranks": 1'))
    with pytest.raises(DamageError, match=r"start-00002.json .* it was altered"):
        ledger_of(tmp_path / "altered")


def test_no_run_is_refused_in_one_line_whose_advice_works(chain: Chain, tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["ledger", str(tmp_path)])
    assert refused.exit_code == 2 and "must be the folder of a run" in refused.output
    refused = CliRunner().invoke(cli, ["ledger", str(chain.first), "--co2-g-per-kwh", "-1"])
    assert refused.exit_code == 2 and "--co2-g-per-kwh 50 works" in refused.output
    assert CliRunner().invoke(cli, ["ledger", str(chain.first), "--co2-g-per-kwh", "50"]).exit_code == 0


def test_of_a_run_that_is_not_there_any_more_the_checkpoint_tells_what_it_had_read(
    chain: Chain, ledger: Ledger
) -> None:
    away = chain.first.rename(chain.first.with_name("away"))
    try:
        found = ledger_of(chain.second).as_json()
    finally:
        away.rename(chain.first)
    assert [run["run_dir"] for run in found["runs"]] == [str(chain.second)]
    origin = found["came_from"]
    assert (origin["step"], origin["tokens"], origin["came_from"]) == (20, ledger.runs[0].tokens, None)
    read: Counter[str | None] = Counter()
    for part in ledger.data.parts[:3]:
        read.update({name: amount.tokens for name, amount in part.amounts["source"].items()})
    assert {source["prefix"]: source["tokens"] for source in origin["sources"]} == read
    assert "is not there: its documents, starts and costs are not counted" in found["not_known"][0]
