"""Packed rows as a run reads them, against plain loops over the plan and the shards' files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fanal.errors import UserError
from fanal.run_folder import PACKING_DIR
from fanal.run_progress import NEW_RUN
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data import reader as reader_module
from pretrain.data.batch import MicroBatch, train_micro_batches
from pretrain.data.documents import Boundaries
from pretrain.data.forensics import PackedSamplePlace, sample_as_trained, sample_places
from pretrain.data.packing import plan as plan_module
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.packing.packed_rows import PackedRowReader
from pretrain.data.packing.padding import padding_line, source_padding
from pretrain.data.packing.plan import Plan
from pretrain.data.passes import source_passes
from pretrain.data.position import DataPosition, position_text, read_position
from pretrain.data.read import TrainData
from pretrain.data.reader import open_reader
from pretrain.data.rows import DamagedTokenError
from pretrain.data.sources import Sources, open_sources
from pretrain.data.validation import ValidationSamples
from pretrain.parallel.world import World
from tests.unit.data.objective_runs import (
    END,
    END_OF_DOCUMENT,
    FILL_IN_THE_MIDDLE,
    GOLDFISH,
    MASKED_SPANS,
    SPAN_CORRUPTION,
    START,
    take,
    tokens_of_spans,
    write_documents,
)
from tests.unit.data.shards import copy_shard, write_token
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.load import load_tokenizer

ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip
BEST_FIT = "data.packing=best_fit"
MASK = "data.document_mask=true"


@pytest.fixture(autouse=True)
def no_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "wrapping_sum", lambda values, world: list(values))


@pytest.fixture(scope="module")
def documents(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Documents of 3 to 152 tokens, some with marks of spans."""
    return write_documents(data_folder, tmp_path_factory.mktemp("to-pack"), longest=150, marks=True)


def run_of(small_run: Path, documents: list[str], tmp_path: Path, *overrides: str) -> RunConfig:
    return load_run(small_run, [*documents, f"run_dir={tmp_path}/run", BEST_FIT, *overrides])


def data_of(run: RunConfig) -> TrainData:
    return TrainData(open_sources(run), run.data)


def plan_of(data: TrainData, source: int) -> Plan:
    order = data.sources.train[source].order
    assert isinstance(order, PackedOrder)
    return order.plan


def row_by_hand(data: TrainData, source: int, place: int) -> tuple[list[int], list[int], int]:
    """(Tokens of a row without what fills it, the positions after 0 where a piece begins, its length)."""
    tokens: list[int] = []
    begins: list[int] = []
    file = np.fromfile(f"{data.sources.train[source].shard.prefix}.bin", "<u2")
    for start, length in zip(*plan_of(data, source).pieces(place), strict=True):
        begins.append(len(tokens))
        tokens += file[start : start + length].tolist()
    return tokens, begins[1:], len(tokens)


def assert_reads_its_rows(run: RunConfig, data: TrainData, count: int = 300) -> tuple[int, int]:
    """Samples against the plan and the file; how many had padding, and how many pieces began in them."""
    pad = load_tokenizer(run.data.tokenizer).pad_id
    padded = pieces = 0
    for number in range(count):
        source, place = (int(found[0]) for found in data.places(np.array([number])))
        tokens, begins, end = row_by_hand(data, source, place)
        sample = sample_as_trained(data, number)
        assert sample.read.tolist() == tokens + [pad] * (65 - end), f"tokens of sample {number}"
        expected = [position < end and position not in begins for position in range(1, 65)]
        assert sample.counted.tolist() == expected, f"predictions of sample {number}"
        found = data.document_starts(np.array([source]), np.array([place]))[0].tolist()
        assert found == begins + [end] * (end < 65), f"starts of sample {number}"
        padded, pieces = padded + (end < 65), pieces + len(begins)
    return padded, pieces


@pytest.mark.parametrize("mask", [(), (MASK,)], ids=["one text", "kept apart"])
def test_a_sample_is_the_pieces_of_its_row_and_padding(
    mask: tuple[str, ...], small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    run = run_of(small_run, documents, tmp_path, *mask)
    padded, pieces = assert_reads_its_rows(run, data_of(run))
    assert padded > 5 and pieces > 100


@pytest.mark.parametrize("fault", ["another row", "filled with text", "all predicted", "one piece late"])
def test_a_fault_in_the_rows_would_be_noticed(
    fault: str, small_run: Path, documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(small_run, documents, tmp_path)
    data = data_of(run)
    rows = data.rows
    assert isinstance(rows, PackedRowReader)
    if fault == "another row":
        copied = rows._copy
        monkeypatch.setattr(rows, "_copy", lambda sources, places, out: copied(sources, np.maximum(places - 1, 0), out))
    elif fault == "filled with text":
        monkeypatch.setattr(rows, "_fill_id", 100)
    elif fault == "all predicted":
        monkeypatch.setattr(rows, "counted", lambda *_: None)
    else:
        ends = rows._ends
        monkeypatch.setattr(rows, "_ends", lambda *place: ends(*place) + 1)
    with pytest.raises(AssertionError, match="of sample"):
        assert_reads_its_rows(run, data)


def test_an_epoch_gives_every_row_once_and_the_next_in_another_order(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    only = f"data.train=[{{prefix: {Path(documents[0].split()[1].rstrip(','))}}}]"
    run = run_of(small_run, documents, tmp_path, only)
    data = data_of(run)
    count = plan_of(data, 0).num_rows
    _, places = data.places(np.arange(2 * count))
    first, second = places[:count].tolist(), places[count:].tolist()
    assert sorted(first) == sorted(second) == list(range(count)) and first != second
    (passes,) = source_passes(run, data.sources, NEW_RUN)
    assert passes.passes == pytest.approx(80 / count)


def test_a_step_reads_the_same_with_a_thread_and_in_replicas(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    run = run_of(small_run, documents, tmp_path, MASK)
    sources = open_sources(run)
    rows: dict[int, list[torch.Tensor]] = {}
    for replicas in (1, 2):
        rows[replicas] = []
        batches = []
        for rank in range(replicas):
            world = replace(ALONE, data_parallel_size=replicas, dp_rank=rank)
            with open_reader(sources, run, world) as reader:
                found = list(train_micro_batches(reader, run.train, world, consumed_samples=40, global_batch_size=8))
                batches.append([batch for batch in found if isinstance(batch, MicroBatch)])
        for together in zip(*batches, strict=True):
            for batch in together:
                assert batch.document_starts is not None
                rows[replicas].append(torch.cat([batch.tokens, batch.labels, batch.loss_mask, batch.position_ids], 1))
    assert torch.equal(torch.cat(rows[1]), torch.cat(rows[2]))


def test_a_stage_in_the_middle_gets_the_boundaries_and_reads_no_tokens(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    run = run_of(small_run, documents, tmp_path, MASK)
    starts = []
    for pp_rank in (0, 1):
        world = replace(ALONE, pp_rank=pp_rank, pipeline_model_parallel_size=3)
        sources = open_sources(run)
        with open_reader(sources, run, world) as reader:
            found = list(train_micro_batches(reader, run.train, world, consumed_samples=0, global_batch_size=8))
        assert any("tokens" in vars(source.shard) for source in sources.train) == (pp_rank == 0)
        assert all(isinstance(batch, (MicroBatch, Boundaries)[pp_rank]) for batch in found)
        starts.append([batch.document_starts for batch in found if batch is not None])
    for first, middle in zip(*starts, strict=True):
        assert first is not None and middle is not None and torch.equal(first, middle)


def test_validation_samples_are_those_of_concatenated_documents(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    found = []
    for packing in (BEST_FIT, "data.packing=concatenate"):
        run = run_of(small_run, documents, tmp_path, packing)
        samples = ValidationSamples(open_sources(run).validation, run.data, samples_per_source=9)
        rows = np.empty((samples.num_samples, 65), np.int64)
        found.append(samples.read_places(*samples.places(np.arange(samples.num_samples)), rows))
    assert np.array_equal(*found)


def test_forensics_names_the_documents_of_a_row(small_run: Path, documents: list[str], tmp_path: Path) -> None:
    data = data_of(run_of(small_run, documents, tmp_path))
    for place in sample_places(data, first_sample=100, num_samples=40):
        assert isinstance(place, PackedSamplePlace)
        shard, tokens = open_shard(place.source), []
        for piece in place.pieces:
            whole = shard.document(piece.document)
            first = piece.start_token - int(shard.document_offsets[piece.document])
            tokens += whole[first : first + piece.num_tokens].tolist()
            assert len(whole) > 65 or piece.num_tokens == len(whole), "a document that fits is whole"
        assert data.sample(place.sample)[: len(tokens)].tolist() == tokens


def test_goldfish_and_ends_of_documents_mask_packed_rows_too(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    plain, masked = (
        data_of(run_of(small_run, documents, tmp_path, MASK, *more)) for more in ((), (GOLDFISH, END_OF_DOCUMENT))
    )
    for number in range(100):
        before, after = sample_as_trained(plain, number), sample_as_trained(masked, number)
        assert np.array_equal(before.tokens, after.tokens)
        assert (before.counted >= after.counted).all()
    counted = [np.mean([sample_as_trained(data, n).counted.mean() for n in range(100)]) for data in (plain, masked)]
    assert 0.7 * counted[0] < counted[1] < 0.85 * counted[0], "one in four is left out"


def test_spans_that_go_on_in_a_later_piece_of_a_document_are_not_predicted(
    small_run: Path, documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(small_run, documents, tmp_path, MASKED_SPANS)
    data, tokenizer = data_of(run), load_tokenizer(run.data.tokenizer)
    ids = {tokenizer.piece(token): token for token in range(tokenizer.vocab_size)}

    def assert_spans() -> int:
        goes_on = 0
        for number in range(300):
            source, place = (int(found[0]) for found in data.places(np.array([number])))
            of_spans = tokens_of_spans(data.sources.train[source].shard.prefix, ids[START], ids[END])
            expected: list[bool] = []
            for start, length in zip(*plan_of(data, source).pieces(place), strict=True):
                goes_on += bool(expected) and of_spans[start] and of_spans[start - 1]
                expected += [False, *(not inside for inside in of_spans[start + 1 : start + length])]
            expected += [False] * (65 - len(expected))
            assert sample_as_trained(data, number).counted.tolist() == expected[1:], f"sample {number}"
        return goes_on

    assert assert_spans() > 3, "spans must go on in pieces that do not begin their row"
    rows = data.rows
    whole = rows.pieces
    monkeypatch.setattr(rows, "pieces", lambda source, place: whole(source, place)[:1])
    with pytest.raises(AssertionError, match="sample"):
        assert_spans()


@pytest.mark.parametrize("objective", [FILL_IN_THE_MIDDLE, SPAN_CORRUPTION])
def test_objectives_that_move_tokens_stay_inside_their_piece(
    objective: str, small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    data = data_of(run_of(small_run, documents, tmp_path, objective))
    taken, changed = take(data, 300), 0
    for number, (read, tokens, starts, counted) in enumerate(
        zip(taken.read, taken.tokens, taken.starts, taken.counted, strict=True)
    ):
        assert not counted[np.array(starts, np.int64) - 1].any(), f"sample {number} predicts the first of a piece"
        for first, end in zip([0, *starts], [*starts, 65], strict=True):
            same = read[first:end] == tokens[first:end]
            changed += not same.all()
            if (read[first:end] == data.sources.pad_id).all():
                assert same.all() and not counted[max(0, first - 1) : end].any(), "padding stays what it is"
    assert changed > 100


def after_five_steps(run: RunConfig) -> DataPosition:
    with open_reader(open_sources(run), run, ALONE) as reader:
        for consumed in range(0, 40, 8):
            list(train_micro_batches(reader, run.train, ALONE, consumed_samples=consumed, global_batch_size=8))
        return reader.position(40)


def resume(run: RunConfig, saved: DataPosition) -> None:
    with open_reader(open_sources(run), run, ALONE) as reader:
        reader.resume(saved, where="step-5")


def test_a_resume_is_of_the_same_plan_or_refused(
    small_run: Path, documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(small_run, documents, tmp_path)
    saved = after_five_steps(run)
    assert all(source.plan and source.plan.startswith("best-fit-decreasing/1:") for source in saved.sources)
    assert all(source.idx_sha256 for source in saved.sources)
    (tmp_path / "data.json").write_text(position_text(saved))
    assert read_position(tmp_path / "data.json") == saved
    resume(run, saved)
    resume(run_of(small_run, documents, tmp_path / "elsewhere"), saved)
    text = json.loads((tmp_path / "data.json").read_text())
    for source in text["sources"]:
        del source["plan"]
    (tmp_path / "data.json").write_text(json.dumps(text))
    older = read_position(tmp_path / "data.json")
    assert all(source.plan is None for source in older.sources)
    with pytest.raises(UserError, match=r"the plan of packed rows of shard .* \(checkpoint none, now best-fit"):
        resume(run, older)
    monkeypatch.setattr(plan_module, "ALGORITHM", "best-fit-decreasing/2")
    with pytest.raises(
        UserError,
        match=r"the plan of packed rows of shard .*train-code is another one \(checkpoint best-fit-decreasing/1 [0-9a-f]{12}, now "
        r"best-fit-decreasing/2 [0-9a-f]{12}\): its rows would hold other documents; use the version that wrote the checkpoint",
    ):
        resume(run, saved)


def test_another_way_to_pack_is_refused_by_the_position_too(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    run = run_of(small_run, documents, tmp_path)
    plain = run_of(small_run, documents, tmp_path, "data.packing=concatenate")
    for first, second in ((run, plain), (plain, run)):
        with pytest.raises(UserError, match=r"was trained on other data: "):
            resume(second, after_five_steps(first))


def test_the_epochs_of_a_mixture_are_passes_over_its_rows(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    train = documents[0].replace("weight: 2", "epochs: 2").replace("weight: 1", "epochs: 1")
    run = run_of(small_run, documents, tmp_path, train, "train.train_steps=4000")
    code, prose = source_passes(run, open_sources(run), NEW_RUN)
    assert code.passes == pytest.approx(2 * prose.passes, rel=1e-3)


def test_padding_is_told_and_nothing_is_told_of_concatenated_documents(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    sources = open_sources(run_of(small_run, documents, tmp_path))
    found = source_padding(sources)
    assert [padding.padding_share for padding in found] == sorted([p.padding_share for p in found], reverse=True)
    line = padding_line(sources)
    rows = sum(source.order.chunks_per_epoch for source in sources.train)
    assert line is not None and line.startswith(f"data.packing best_fit: {rows:,} rows of 64 tokens an epoch, padding ")
    assert "documents are longer than a row and are cut, all others are whole in one" in line
    plain: Sources = open_sources(run_of(small_run, documents, tmp_path, "data.packing=concatenate"))
    assert padding_line(plain) is None and source_padding(plain) == []


def test_only_a_run_that_trains_keeps_its_plans(small_run: Path, documents: list[str], tmp_path: Path) -> None:
    run = run_of(small_run, documents, tmp_path)
    data_of(run)
    assert not Path(run.run_dir).exists()
    TrainData(open_sources(run, keeps_plans=True), run.data)
    assert len(list((Path(run.run_dir) / PACKING_DIR).glob("*.plan"))) == 2


def test_a_tokenizer_without_padding_fills_rows_with_the_end_of_documents_and_predicts_none(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    run = run_of(small_run, documents, tmp_path)
    sources = open_sources(run)
    eos = load_tokenizer(run.data.tokenizer).eos_id
    data = TrainData(replace(sources, pad_id=-1, fill_id=eos), run.data)
    padded = TrainData(sources, run.data)
    for number in range(100):
        sample, expected = sample_as_trained(data, number), sample_as_trained(padded, number)
        assert np.array_equal(sample.counted, expected.counted)
        filled = expected.read == sources.pad_id
        assert (sample.read[filled] == eos).all() and np.array_equal(sample.read[~filled], expected.read[~filled])


def test_a_damaged_id_is_named_with_its_token_in_the_shard(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    prefix = copy_shard(Path(documents[0].split()[1].rstrip(",")), tmp_path / "damaged")
    run = run_of(small_run, documents, tmp_path, f"data.train=[{{prefix: {prefix}}}]")
    data = data_of(run)
    row = next(row for row in range(plan_of(data, 0).num_rows) if len(plan_of(data, 0).pieces(row)[0]) > 1)
    token = plan_of(data, 0).pieces(row)[0][1] + 1
    write_token(prefix, token, 60_000)
    with pytest.raises(DamagedTokenError, match=rf"damaged holds id 60000 at token {token}, expected 0 to 1999"):
        data.read_places(np.zeros(1, np.int64), np.array([row]), data.new_rows(1))
