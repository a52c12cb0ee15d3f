"""From documents, ids and texts to their steps, against every sample of a run looked at; and the command that asks."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fanal.exit_codes import DAMAGED, WRONG_INPUT
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.order import ChunkOrders
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.history.history import history_of
from pretrain.ledger.command import ledger
from pretrain.report.command import report
from pretrain.trace.command import trace
from pretrain.trace.document import DocumentTrace, trace_document
from tests.unit.data.shards import copy_shard, write_token
from tests.unit.history.starts import begin
from tokenizer.documents.column_fields import ColumnFields
from tokenizer.encoding.encode import encode
from tokenizer.shards.shard import open_shard

NAMES = ("code", "prose", "notes")
PLANTED = "the heron waits at the seventh lock"
PACKED, CUT = "data.packing=best_fit", "data.packing=concatenate"
STEPS, BATCH = 60, 8


@pytest.fixture(scope="module")
def prefixes(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three shards of short documents with columns; one in fifty says PLANTED."""
    folder, draw = tmp_path_factory.mktemp("traced"), np.random.default_rng(1)
    for name in NAMES:
        lines = [line for line in (data_folder / "corpus/train/prose.jsonl").read_text().splitlines() if line][:400]
        words = " ".join(json.loads(line)["text"] for line in lines).split()
        with (folder / f"{name}.jsonl").open("w") as stream:
            for number in range(200 if name != "notes" else 30):
                at, count = int(draw.integers(0, len(words) - 200)), int(draw.integers(1, 60))
                text = " ".join(words[at : at + count]) + f" {PLANTED}." * (number % 50 == 7)
                stream.write(
                    json.dumps(
                        {"text": f"{name} {number} {text}", "id": f"{name}-{number}", "url": f"https://a.{name}.org/"}
                    )
                    + "\n"
                )
        encode(data_folder / "tokenizer", [folder / f"{name}.jsonl"], folder / name, columns=ColumnFields())
    return {name: folder / name for name in NAMES}


def run_of(small_run: Path, folder: Path, prefixes: dict[str, Path], *overrides: str) -> RunConfig:
    """The small source is read many times; one pauses; the last part of each is held out."""
    code, prose, notes = (prefixes[name] for name in NAMES)
    return load_run(
        small_run,
        [
            f"run_dir={folder}", f"train.train_steps={STEPS}", f"train.global_batch_size={BATCH}", "data.seq_length=32",
            f"data.train=[{{prefix: {code}, weight: 3}}, {{prefix: {notes}, weight: 1}}]",
            f"data.phases=[{{start_sample: 90, train: [{{prefix: {prose}}}, {{prefix: {code}}}]}}, "
            f"{{start_sample: 250, train: [{{prefix: {prose}}}, {{prefix: {notes}}}]}}]",
            "data.validation=[]", "data.validation_fraction=0.2", *overrides,
        ],
    )  # fmt: skip


def seen_by_looking(run: RunConfig) -> dict[tuple[str, int], list[tuple[int, int, int]]]:
    """By shard and document: (sample, first token of the document in it, number of them), from all samples of the run."""
    data = TrainData(open_sources(run), run.data)
    found: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    offsets = {str(source.shard.prefix): source.shard.document_offsets for source in data.sources.train}
    for sample in range(STEPS * BATCH):
        (source,), (place,) = data.places(np.array([sample]))
        pieces = data.rows.pieces(int(source), int(place))
        row, shard = data.sample(sample).tolist(), data.sources.train[source].shard
        for (at, start), end in zip(pieces, [*(at for at, _ in pieces[1:]), len(row)], strict=True):
            for token in range(start, start + end - at):
                position = at + token - start
                document = int(np.searchsorted(offsets[str(shard.prefix)], token, side="right")) - 1
                if run.data.packing == "best_fit" and document != documents_at(offsets, shard.prefix, start):
                    break  # what fills the row
                assert shard.tokens[token] == row[position]
                offset = token - int(offsets[str(shard.prefix)][document])
                of = found.setdefault((str(shard.prefix), document), [])
                if of and of[-1][0] == sample and of[-1][1] + of[-1][2] == offset:
                    of[-1] = (sample, of[-1][1], of[-1][2] + 1)
                else:
                    of.append((sample, offset, 1))
    return found


def documents_at(offsets: dict[str, np.ndarray], prefix: Path, token: int) -> int:
    return int(np.searchsorted(offsets[str(prefix)], token, side="right")) - 1


def readings_of(found: DocumentTrace) -> list[tuple[int, int, int]]:
    (phase,) = found.phases
    for reading in phase.readings:
        assert reading.step == reading.sample // BATCH + 1
        assert reading.step is not None and reading.is_trained == (reading.step <= phase.trained_to)
    return [(reading.sample, reading.offset, reading.num_tokens) for reading in phase.readings]


def assert_found_as_by_looking(run: RunConfig, expected: dict[tuple[str, int], list[tuple[int, int, int]]]) -> None:
    history, passes = history_of(run.run_dir), set[int]()
    for prefix in {source.shard.prefix for source in open_sources(run).train}:
        count = open_shard(prefix).num_documents
        for number in [*range(0, count, 3), count - 1]:
            (found,) = trace_document(history, f"{prefix}:{number}")
            assert sorted(readings_of(found)) == sorted(expected.get((str(prefix), number), [])), f"{prefix}:{number}"
            passes |= {reading.pass_number for phase in found.phases for reading in phase.readings}
        assert found.phases[0].held_out and not found.phases[0].readings, "the last document is held out"
    assert max(passes) >= 3


@pytest.mark.parametrize("packing", [PACKED, CUT])
def test_every_document_is_found_in_exactly_the_samples_that_hold_it(
    packing: str, small_run: Path, prefixes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(small_run, tmp_path, prefixes, packing)
    begin(run)
    expected = seen_by_looking(run)
    assert_found_as_by_looking(run, expected)
    right = ChunkOrders.draws_of
    monkeypatch.setattr(
        ChunkOrders, "draws_of", lambda self, source, epochs, chunks: right(self, source, epochs, chunks) ^ 1
    )
    with pytest.raises(AssertionError):
        assert_found_as_by_looking(run, expected)


def ask(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(trace, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def answer_of(*arguments: object) -> dict[str, Any]:
    code, output = ask(*arguments, "--json")
    assert code == 0, output
    return json.loads(output)


@pytest.fixture
def begun(small_run: Path, prefixes: dict[str, Path], tmp_path: Path) -> Path:
    begin(run_of(small_run, tmp_path / "run", prefixes), num_ranks=2)
    return tmp_path / "run"


def test_a_step_names_documents_with_their_columns_and_texts(begun: Path, prefixes: dict[str, Path]) -> None:
    found = answer_of(begun, "--step", 3, "--text")["step"]
    assert [sample["sample"] for sample in found["samples"]] == list(range(16, 24)) and not found["is_trained"]
    parts = [(sample["source"], part) for sample in found["samples"] for part in sample["parts"]]
    for source, part in parts:
        name = Path(source).name
        assert part["columns"]["id"] == f"{name}-{part['document']}" and part["columns"]["host"] == f"{name}.org"
        assert part["columns"]["position"] == part["document"] + 1
        if part["offset"] == 0 and part["num_tokens"] > 12:
            assert part["text"].startswith(f"{name} {part['document']} ")
    of_rank = answer_of(begun, "--step", 3, "--rank", 1)["step"]["samples"]
    assert [sample["sample"] for sample in of_rank] == [18, 19, 22, 23]
    (one,) = answer_of(begun, "--sample", 19)["step"]["samples"]
    assert one == of_rank[1] and one["micro_batch"] == 0 and one["replica"] == 1
    code, output = ask(begun, "--step", 3, "--text")
    assert code == 0 and output.count("\nsample ") == 8 and f"{begun}: samples 16 to 23, planned" in output


def test_a_document_is_found_by_its_id_as_by_its_number(begun: Path, prefixes: dict[str, Path]) -> None:
    by_id = answer_of(begun, "--document", "notes-7")
    assert (
        by_id == answer_of(begun, "--document", f"{prefixes['notes']}:7") == answer_of(begun, "--document", "notes:7")
    )
    (document,) = by_id["documents"]
    assert document["document"]["number"] == 7 and len(document["phases"][0]["readings"]) > 4
    code, output = ask(begun, "--document", "notes-7")
    assert code == 0 and "document 7 of " in output and "id notes-7" in output and ", planned" in output


@pytest.mark.parametrize("question", [("--text", PLANTED), ("--regex", "seventh l.ck")])
def test_a_planted_sentence_is_found_with_the_steps_that_read_it_and_nothing_else(
    question: tuple[str, str], begun: Path, prefixes: dict[str, Path]
) -> None:
    found = answer_of(begun, *question)["documents"]
    named = {(Path(one["document"]["prefix"]).name, one["document"]["number"]) for one in found}
    assert named == {(name, number) for name in NAMES for number in range(7, 200 if name != "notes" else 30, 50)}
    data = TrainData(open_sources(history_of(begun).segments[-1].config), history_of(begun).segments[-1].config.data)
    for one in found:
        tokens = open_shard(one["document"]["prefix"]).tokens[one["hit"]["start_token"] : one["hit"]["end_token"]]
        for reading in one["phases"][0]["readings"]:
            offset = reading["offset"] - (one["hit"]["start_token"] - one["document"]["first_token"])
            held = tokens[offset : offset + reading["num_tokens"]].tolist()
            row = data.sample(reading["sample"]).tolist()
            assert any(row[at : at + len(held)] == held for at in range(len(row)))
    assert any(one["phases"][0]["readings"] for one in found)
    assert ask(begun, "--text", "no document says this") == (0, f"no document of {begun} holds it\n")


def test_moved_shards_are_found_by_the_advice_of_the_error(
    small_run: Path, prefixes: dict[str, Path], data_folder: Path, tmp_path: Path
) -> None:
    tokenizer = tmp_path / "old/tokenizer"
    shutil.copytree(data_folder / "tokenizer", tokenizer)
    copies = {name: copy_with_columns(prefix, tmp_path / "old" / name) for name, prefix in prefixes.items()}
    begin(run_of(small_run, tmp_path / "run", copies, f"data.tokenizer={tokenizer}"))
    before = answer_of(tmp_path / "run", "--step", 3, "--text")["step"]
    (tmp_path / "old").rename(tmp_path / "new")
    code, output = ask(tmp_path / "run", "--step", 3)
    assert code == WRONG_INPUT and f"data.tokenizer ({tokenizer}) of {tmp_path / 'run'} is not there" in output
    advised = re.findall(r"--moved \S+", output)[0].replace("=NEW", f"={tmp_path / 'new'}").split()
    after = answer_of(tmp_path / "run", "--step", 3, "--text", *advised)["step"]
    for sample in after["samples"]:
        assert sample["source"].startswith(str(tmp_path / "new"))
        sample["source"] = sample["source"].replace(str(tmp_path / "new"), str(tmp_path / "old"))
    assert after == before
    for command in (ledger, report):
        found = CliRunner().invoke(command, [str(tmp_path / "run"), *advised])
        assert found.exit_code == 0 and "is not there" not in found.output, found.output
    page = (tmp_path / "run/report.html").read_text()
    assert "is not there" not in page
    CliRunner().invoke(report, [str(tmp_path / "run")])
    assert "is not there" in (tmp_path / "run/report.html").read_text()

    code, output = ask(tmp_path / "run", "--step", 3, "--moved", f"{tmp_path / 'ol'}={tmp_path / 'new'}")
    assert code == WRONG_INPUT and "and none of them does" in output
    assert ask(tmp_path / "run", "--step", 3, *re.findall(r"--moved \S+(?= works)", output)[0].split())[0] == 0
    code, output = ask(tmp_path / "run", "--step", 3, "--moved", "elsewhere")
    assert code == WRONG_INPUT and "--moved (elsewhere) must be OLD=NEW" in output
    for suffix in (".bin", ".idx", ".json", ".documents.parquet"):
        shutil.copyfile(f"{prefixes['prose']}{suffix}", tmp_path / f"new/code{suffix}")
        shutil.copyfile(f"{prefixes['code']}{suffix}", tmp_path / f"new/prose{suffix}")
    code, output = ask(tmp_path / "run", "--step", 3, *advised)
    assert code == WRONG_INPUT and "are not those of start 1" in output, "another shard of that name is no moved one"


def test_altered_shards_are_refused(small_run: Path, prefixes: dict[str, Path], tmp_path: Path) -> None:
    copies = {name: copy_with_columns(prefix, tmp_path / name) for name, prefix in prefixes.items()}
    begin(run_of(small_run, tmp_path / "run", copies))
    assert ask(tmp_path / "run", "--step", 1, "--deep")[0] == 0
    write_token(copies["code"], 5, 900)
    code, output = ask(tmp_path / "run", "--step", 1, "--deep")
    assert code == DAMAGED and "code.bin" in output
    code, output = ask(tmp_path / "run", "--step", 1, "--text")
    assert code == DAMAGED and "code.bin" in output
    for suffix in (".bin", ".idx", ".json", ".documents.parquet"):
        shutil.copyfile(f"{prefixes['prose']}{suffix}", f"{copies['code']}{suffix}")
        shutil.copyfile(f"{prefixes['code']}{suffix}", f"{copies['prose']}{suffix}")
    code, output = ask(tmp_path / "run", "--step", 1)
    assert code == WRONG_INPUT and "the tokens of shard" in output and "are not those of start 1" in output


def copy_with_columns(prefix: Path, target: Path) -> Path:
    shutil.copyfile(f"{prefix}.documents.parquet", f"{target}.documents.parquet")
    return copy_shard(prefix, target)


def test_spikes_are_listed_and_their_documents_shown(begun: Path) -> None:
    assert "lists no step that went wrong" in ask(begun, "--spikes")[1]
    line = {
        "step": 3,
        "reason": "spike",
        "skipped": True,
        "loss": 9.5,
        "grad_norm": 4.0,
        "first_sample": 16,
        "num_samples": 8,
    }
    (begun / "spikes.jsonl").write_text(json.dumps(line) + "\n{torn")
    assert answer_of(begun, "--spikes")["spikes"] == [line]
    found = answer_of(begun, "--spikes", "--step", 3)
    assert found["spikes"] == [line] and len(found["step"]["samples"]) == 8
    code, output = ask(begun, "--spikes", "--step", 4)
    assert code == WRONG_INPUT and "--step 3 works" in output
    assert "it is in spikes.jsonl: spike, skipped, loss 9.5" in ask(begun, "--step", 3)[1]


@pytest.mark.parametrize(
    ("words", "error", "works"),
    [
        ((), "what is to be traced", ("--step", 1)),
        (("--step", 0), r"must be from 1 to 60", ("--step", 1)),
        (("--step", 61), r"must be from 1 to 60", ("--step", 1)),
        (("--step", 3, "--sample", 3), "must be one of step 3, 16 to 23", ("--step", 3, "--sample", 16)),
        (("--step", 3, "--rank", 2), "must be from 0 to 1", ("--step", 3, "--rank", 0)),
        (("--rank", 1), "what is to be traced", ("--spikes",)),
        (("--sample", 480), "must be from 0 to 479", ("--sample", 0)),
        (("--sample", 3, "--rank", 1), "needs --step, and no --sample", ("--step", 1, "--rank", 1)),
        (("--step", 3, "--document", "a"), "--document must be without --step", ("--step", 3)),
        (("--text", "a", "--regex", "b"), "--regex must be without --text", ("--regex", "b")),
        (("--text", "a", "--step", 3), "put it last, as in --step 3 --text", ("--step", 3, "--text")),
        (("--text",), "needs a text that is sought", ("--text", "a text")),
        (("--document", "nobody"), "which 3 of 3 have", ("--document", "code:0")),
        (("--document", "code:200"), "which has 200", ("--document", "code:199")),
    ],
    ids=str,
)
def test_a_wrong_question_is_refused_with_one_that_works(
    words: tuple[object, ...], error: str, works: tuple[object, ...], begun: Path
) -> None:
    code, output = ask(begun, *words)
    assert code == WRONG_INPUT and output.startswith("error: ") and error in output
    assert ask(begun, *works)[0] == 0


def test_an_earlier_run_of_the_chain_is_traced_up_to_where_the_next_one_began(
    small_run: Path, prefixes: dict[str, Path], tmp_path: Path
) -> None:
    earlier = run_of(small_run, tmp_path / "first", prefixes)
    begin(earlier)
    origin = {
        "init_from": str(tmp_path / "first"), "init_optimizer": "keep", "manifest_sha256": "ab" * 32, "step": 20,
        "checkpoint": str(tmp_path / "first/checkpoints/step-00000020"), "consumed_samples": 160, "consumed_tokens": 0,
        "data": {}, "origin": None, "average": None,
    }  # fmt: skip
    begin(dataclasses.replace(earlier, run_dir=str(tmp_path / "second")), origin=origin)
    (found,) = answer_of(tmp_path / "second", "--document", "notes:7")["documents"]
    first, second = found["phases"]
    assert (Path(first["run_dir"]).name, first["planned_to"], second["planned_to"]) == ("first", 20, 60)
    assert first["readings"] and first["readings"] == [
        reading for reading in second["readings"] if reading["sample"] < 160
    ]
    assert found["unknown_before"] is None
    shutil.rmtree(tmp_path / "first")
    (found,) = answer_of(tmp_path / "second", "--document", "notes:7")["documents"]
    assert len(found["phases"]) == 1 and found["unknown_before"] == origin["checkpoint"]
    assert "is not known: its run is not there" in ask(tmp_path / "second", "--document", "notes:7")[1]
