"""The plan of packed rows as a file: what it holds, where it lies, and which files are refused."""

import multiprocessing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fanal.errors import DamageError
from pretrain.data.packing import plan as plan_module
from pretrain.data.packing.kept_plans import PlanFolder
from pretrain.data.packing.plan import Plan, PlanKey, plan_key
from tests.unit.data.objective_runs import write_documents
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.shard import Shard, open_shard

SEQ_LENGTH = 64


@pytest.fixture(scope="module")
def prefix(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of documents of 3 to 152 tokens."""
    folder = tmp_path_factory.mktemp("planned")
    write_documents(data_folder, folder, longest=150)
    return folder / "train-code"


def key_of(shard: Shard, *, train_tokens: int | None = None) -> PlanKey:
    return plan_key(shard, train_tokens=train_tokens or shard.num_tokens, seq_length=SEQ_LENGTH)


def plan_in(folder: Path, prefix: Path, *, writes: bool = True, train_tokens: int | None = None) -> Plan:
    shard = open_shard(prefix)
    return PlanFolder(path=folder, writes=writes).plan(shard, key_of(shard, train_tokens=train_tokens))


def file_in(folder: Path) -> Path:
    (path,) = folder.glob("*.plan")
    return path


def assert_packs(plan: Plan, shard: Shard, train_tokens: int) -> None:
    """Every token but the first of its document is predicted once; no document that fits is cut; no row is too long."""
    predicted, read, cut = [], set(), set()
    offsets = shard.document_offsets
    for row in range(plan.num_rows):
        starts, lengths = plan.pieces(row)
        assert starts == sorted(starts) and 1 <= sum(lengths) <= SEQ_LENGTH + 1
        for start, length in zip(starts, lengths, strict=True):
            document = int(np.searchsorted(offsets, start, side="right")) - 1
            assert start + length <= offsets[document + 1], "a piece of two documents"
            if length != offsets[document + 1] - offsets[document]:
                cut.add(document)
            predicted += range(start + 1, start + length)
            read |= set(range(start, start + length))
    begun = set(offsets.tolist())
    assert sorted(predicted) == [token for token in range(train_tokens) if token not in begun]
    assert read == set(range(train_tokens))
    long = {number for number, (first, end) in enumerate(pairwise(offsets.tolist())) if end - first > SEQ_LENGTH + 1}
    assert cut == {number for number in long if offsets[number] < train_tokens}
    assert plan.num_cut_documents == len(cut)
    padding = plan.num_rows * (SEQ_LENGTH + 1) - int(plan.lengths.sum())
    assert plan.padding_share == pytest.approx(padding / (plan.num_rows * (SEQ_LENGTH + 1)), abs=1e-12)


def test_a_plan_holds_every_document_whole_or_cut_because_it_must_be(prefix: Path, tmp_path: Path) -> None:
    shard = open_shard(prefix)
    plan = plan_in(tmp_path, prefix)
    assert_packs(plan, shard, shard.num_tokens)
    assert plan.padding_share < 0.05 and plan.num_cut_documents > 10
    assert file_in(tmp_path).stat().st_size <= plan_module.ARRAYS_AT + 12 * len(plan.starts) + 8 * (plan.num_rows + 2)


@pytest.mark.parametrize("group", [1, 7, 100])
def test_groups_hold_the_same_tokens_in_rows_of_their_own(
    group: int, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "GROUP_DOCUMENTS", group)
    shard = open_shard(prefix)
    plan = plan_in(tmp_path, prefix)
    assert_packs(plan, shard, shard.num_tokens)
    group_of = np.searchsorted(shard.document_offsets, np.asarray(plan.starts), side="right") - 1
    group_of //= group
    for first, end in pairwise(plan.firsts.tolist()):
        assert len(set(group_of[first:end].tolist())) == 1


def test_what_is_kept_for_validation_is_in_no_row(prefix: Path, tmp_path: Path) -> None:
    shard = open_shard(prefix)
    cut = shard.document_start(shard.num_tokens * 2 // 3)
    assert_packs(plan_in(tmp_path, prefix, train_tokens=cut), shard, cut)
    assert plan_in(tmp_path, prefix).hash != plan_in(tmp_path, prefix, train_tokens=cut).hash


def test_the_same_plan_is_made_anywhere_and_opened_where_it_lies(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan_in(tmp_path / "a", prefix)
    elsewhere, alone = plan_in(tmp_path / "b", prefix), plan_in(tmp_path / "c", prefix, writes=False)
    assert made.hash == elsewhere.hash == alone.hash and not (tmp_path / "c").exists()
    assert file_in(tmp_path / "a").read_bytes() == file_in(tmp_path / "b").read_bytes()
    for name in ("starts", "lengths", "firsts"):
        assert np.array_equal(getattr(made, name), getattr(alone, name))
    monkeypatch.setattr("pretrain.data.packing.kept_plans.write_plan", None)
    assert plan_in(tmp_path / "a", prefix).hash == made.hash


def test_the_folder_of_the_shard_is_not_written_to(prefix: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in prefix.parent.iterdir())
    prefix.parent.chmod(0o555)
    try:
        plan_in(tmp_path, prefix)
    finally:
        prefix.parent.chmod(0o755)
    assert sorted(path.name for path in prefix.parent.iterdir()) == before
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".plan"], "the lock and the plan"


def make_and_count(folder: Path, prefix: Path, made: Path) -> None:
    from pretrain.data.packing import kept_plans

    sound = kept_plans.write_plan

    def counted(*args: object) -> None:
        with made.open("a") as stream:
            stream.write("made\n")
        sound(*args)  # type: ignore[arg-type]

    kept_plans.write_plan = counted
    plan_in(folder, prefix)


def test_of_several_processes_one_makes_the_plan(prefix: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "plans", prefix, tmp_path / "made")
    processes = [context.Process(target=make_and_count, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "made").read_text() == "made\n"


@pytest.mark.parametrize("at", [0, 20, 100, 200, -4])
def test_an_altered_byte_is_refused_and_the_advice_works(at: int, prefix: Path, tmp_path: Path) -> None:
    sound = plan_in(tmp_path, prefix)
    path = file_in(tmp_path)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageError, match=rf"{path} is n.*; remove it \(`rm {path}`\)"):
        plan_in(tmp_path, prefix)
    path.unlink()
    assert plan_in(tmp_path, prefix).hash == sound.hash


@pytest.mark.parametrize("num_bytes", [0, 10, 100, 5_000])
def test_a_cut_file_is_refused(num_bytes: int, prefix: Path, tmp_path: Path) -> None:
    plan_in(tmp_path, prefix)
    path = file_in(tmp_path)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(DamageError, match=r"is no plan of this version|its hash is another one"):
        plan_in(tmp_path, prefix)


def test_a_sound_plan_of_other_documents_in_its_place_is_refused(prefix: Path, tmp_path: Path) -> None:
    other = prefix.with_name("train-prose")
    plan_in(tmp_path / "other", other)
    plan_in(tmp_path, prefix)
    file_in(tmp_path).write_bytes(file_in(tmp_path / "other").read_bytes())
    with pytest.raises(DamageError, match="is the plan of other documents"):
        plan_in(tmp_path, prefix)


def test_every_part_of_the_key_has_a_file_of_its_own(prefix: Path) -> None:
    key = key_of(open_shard(prefix))
    others = [
        replace(key, idx_sha256="0" * 64),
        replace(key, train_tokens=key.train_tokens - 1),
        replace(key, seq_length=key.seq_length + 1),
        replace(key, algorithm="best-fit-decreasing/2"),
    ]
    assert len({each.file_name for each in (key, *others)}) == 5


def test_no_plan_is_kept_of_an_index_that_was_altered(prefix: Path, data_folder: Path, tmp_path: Path) -> None:
    write_documents(data_folder, tmp_path, longest=150)
    index = tmp_path / "train-code.idx"
    lengths = np.memmap(index, "<i4", mode="r+", offset=34, shape=(20,))
    lengths[3:5] += np.array([1, -1], np.int32)
    lengths.flush()
    with pytest.raises(DamagedShardError, match=r"train-code\.idx"):
        plan_in(tmp_path / "plans", tmp_path / "train-code")
    assert not list((tmp_path / "plans").glob("*.pl*")), "neither a plan nor a part of one"
