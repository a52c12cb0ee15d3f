"""The data position of a checkpoint: which changes it finds, and that its hash knows no layout."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data import reader as reader_module
from pretrain.data.batch import train_micro_batches
from pretrain.data.position import DataPosition, position_text, read_position
from pretrain.data.reader import TrainReader, open_reader
from pretrain.data.sample_hash import NEW_RUN, UNNAMED, Lanes, SampleHasher, add, lanes_of, to_text
from pretrain.data.sources import open_sources
from pretrain.parallel.world import World
from tests.unit.data.shards import copy_shard, write_token
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.shard import ShardWriter, open_shard

ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "wrapping_sum", lambda values, world: list(values))


@pytest.fixture
def shards(data_folder: Path, tmp_path: Path) -> Path:
    """A folder of shards that a test may change."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("train-code", "train-prose", "validation-code", "validation-prose"):
        copy_shard(data_folder / "shards" / name, folder / name)
    return folder


def run_on(small_run: Path, shards: Path, *overrides: str) -> RunConfig:
    train = f"data.train=[{{prefix: {shards}/train-code, weight: 2}}, {{prefix: {shards}/train-prose, weight: 1}}]"
    return load_run(small_run, [train, "data.validation=[]", *overrides])


def step(reader: TrainReader, run: RunConfig, world: World, consumed: int) -> None:
    list(train_micro_batches(reader, run.train, world, consumed_samples=consumed, global_batch_size=8))


def after_five_steps(run: RunConfig) -> DataPosition:
    with open_reader(open_sources(run), run, ALONE) as reader:
        for consumed in range(0, 40, 8):
            step(reader, run, ALONE, consumed)
        return reader.position(40)


def resume(run: RunConfig, saved: DataPosition) -> TrainReader:
    with open_reader(open_sources(run), run, ALONE) as reader:
        reader.resume(saved, where="step-5")
        return reader


def test_the_record_says_what_was_read_and_how_far(small_run: Path, shards: Path, tmp_path: Path) -> None:
    saved = after_five_steps(run_on(small_run, shards))
    assert [source.prefix for source in saved.sources] == [f"{shards}/train-code", f"{shards}/train-prose"]
    assert sum(source.cursor for source in saved.sources) == saved.consumed_samples == 40
    assert [(share.weight, share.epochs) for share in saved.phases[0].sources] == [(2.0, None), (1.0, None)]
    assert (saved.last_step.first_sample, saved.last_step.num_samples) == (32, 8)
    (tmp_path / "data.json").write_text(position_text(saved))
    assert read_position(tmp_path / "data.json") == saved


def test_a_file_that_is_no_position_is_refused_by_name(small_run: Path, shards: Path, tmp_path: Path) -> None:
    good = json.dumps(dataclasses.asdict(after_five_steps(run_on(small_run, shards))))
    (tmp_path / "data.json").write_text(good)
    read_position(tmp_path / "data.json")
    mixed = good.replace('"consumed_hash": "blake3:', '"consumed_hash": "')
    broken = (
        mixed,
        good.replace("blake3:", "md5:"),
        good.replace('"consumed_hash": "', '"consumed_hash": "zz'),
        good.replace('"share": 2.0', '"share": "x"'),
    )
    assert good not in broken
    for text in ("", "{}", "[1]", '{"phases": [{}]}', good.replace('"share": 2.0', '"share": NaN'), *broken):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(
            ValueError, match=r"data.json is not the data position of a checkpoint .* another checkpoint"
        ):
            read_position(tmp_path / "data.json")


def sum_by_hand(run: RunConfig, samples: range, algorithm: str) -> str:
    """The hash of these samples as docs/checkpoints.md defines it."""
    data = TrainReader(reader_module.TrainData(open_sources(run), run.data), run, ALONE).data
    low = high = 0
    for number in samples:
        content = (
            number.to_bytes(8, "little")
            + data.sample(number).astype("<u2" if algorithm == NEW_RUN else "<i4").tobytes()
        )
        digest = blake3(content).digest() if algorithm == NEW_RUN else hashlib.blake2b(content, digest_size=16).digest()
        low, high = low + int.from_bytes(digest[:8], "little"), high + int.from_bytes(digest[8:16], "little")
    name = "blake3:" if algorithm == NEW_RUN else ""
    return f"{name}{low % 2**64:016x}{high % 2**64:016x}"


def test_the_hash_is_the_sum_over_samples_of_number_and_tokens(small_run: Path, shards: Path) -> None:
    run = run_on(small_run, shards)
    saved = after_five_steps(run)
    assert saved.consumed_hash == sum_by_hand(run, range(40), NEW_RUN)
    assert saved.last_step.hash == sum_by_hand(run, range(32, 40), NEW_RUN)


def test_a_run_that_an_earlier_version_began_goes_on_with_its_hash(
    small_run: Path, shards: Path, tmp_path: Path
) -> None:
    run = run_on(small_run, shards)
    new = after_five_steps(run)
    consumed, last = (sum_by_hand(run, samples, UNNAMED) for samples in (range(40), range(32, 40)))
    old = replace(new, consumed_hash=consumed, last_step=replace(new.last_step, hash=last))
    (tmp_path / "data.json").write_text(position_text(old))
    old = read_position(tmp_path / "data.json")
    with open_reader(open_sources(run), run, ALONE) as reader:
        reader.resume(old, where="step-5")
        assert reader.position(40) == old
        step(reader, run, ALONE, 40)
        found = reader.position(48)
    assert found.consumed_hash == sum_by_hand(run, range(48), UNNAMED)
    assert found.last_step.hash == sum_by_hand(run, range(40, 48), UNNAMED)
    with pytest.raises(DamagedShardError, match="are no longer the tokens that were trained on"):
        resume(run, replace(old, last_step=replace(old.last_step, hash="0" * 32)))


def hash_of(numbers: list[int], rows: list[list[int]], *, algorithm: str, vocab_size: int) -> Lanes:
    hasher = SampleHasher(algorithm, vocab_size=vocab_size, seq_length=len(rows[0]) - 1)
    contents = np.empty((len(rows), hasher.content_items), hasher.dtype)
    hasher.write_numbers(contents, np.array(numbers))[:] = rows
    return hasher.sum(contents)


@pytest.mark.parametrize(("algorithm", "vocab_size"), [(NEW_RUN, 2000), (NEW_RUN, 2**31), (UNNAMED, 2000)])
@given(rows=st.lists(st.lists(st.integers(0, 1999), min_size=3, max_size=3), min_size=2, max_size=6), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_hash_knows_no_order_but_every_number_and_token(
    rows: list[list[int]], data: st.DataObject, algorithm: str, vocab_size: int
) -> None:
    hashed = functools.partial(hash_of, algorithm=algorithm, vocab_size=vocab_size)
    numbers = list(range(len(rows)))
    whole = hashed(numbers, rows)
    order = data.draw(st.permutations(numbers))
    cut = data.draw(st.integers(1, len(rows) - 1))
    parts = [hashed(part, [rows[number] for number in part]) for part in (order[:cut], order[cut:])]
    assert add(*parts) == whole and lanes_of(to_text(whole, algorithm)) == whole
    changed = [list(row) for row in rows]
    changed[order[0]][1] ^= 1
    assert hashed(numbers, changed) != whole
    assert hashed([number + 1 for number in numbers], rows) != whole


@pytest.mark.parametrize(("replicas", "micro_batch_size"), [(1, 8), (2, 1), (2, 4), (4, 2)])
def test_the_hash_of_replicas_adds_up_to_that_of_one(
    small_run: Path, shards: Path, replicas: int, micro_batch_size: int
) -> None:
    run = run_on(small_run, shards, f"train.micro_batch_size={micro_batch_size}")
    total = step_total = (0, 0)
    for rank in range(replicas):
        for pp_rank, tp_rank in ((0, 0), (0, 1), (1, 0)):
            world = replace(
                ALONE, data_parallel_size=replicas, dp_rank=rank, tp_rank=tp_rank, pp_rank=pp_rank,
                tensor_model_parallel_size=2, pipeline_model_parallel_size=2,
            )  # fmt: skip
            with open_reader(open_sources(run), run, world) as reader:
                for consumed in range(0, 40, 8):
                    step(reader, run, world, consumed)
                found = reader.position(40)
            total = add(total, lanes_of(found.consumed_hash))
            step_total = add(step_total, lanes_of(found.last_step.hash))
    expected = after_five_steps(run_on(small_run, shards))
    assert (to_text(total, NEW_RUN), to_text(step_total, NEW_RUN)) == (expected.consumed_hash, expected.last_step.hash)


def test_a_resumed_run_has_the_hash_of_the_straight_one(small_run: Path, shards: Path) -> None:
    run = run_on(small_run, shards)
    saved = after_five_steps(run)
    with open_reader(open_sources(run), run, ALONE) as straight, open_reader(open_sources(run), run, ALONE) as resumed:
        for consumed in range(0, 40, 8):
            step(straight, run, ALONE, consumed)
        resumed.resume(saved, where="step-5")
        assert resumed.position(40) == saved, "before another step, the position is the one that was read"
        for reader in (straight, resumed):
            step(reader, run, ALONE, 40)
            step(reader, run, ALONE, 48)
        assert straight.position(56) == resumed.position(56)


def test_moved_and_renamed_shards_are_the_same_data(small_run: Path, shards: Path, tmp_path: Path) -> None:
    saved = after_five_steps(run_on(small_run, shards))
    shards.rename(tmp_path / "elsewhere")
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / "elsewhere" / f"train-code{suffix}").rename(tmp_path / "elsewhere" / f"other{suffix}")
    train = f"data.train=[{{prefix: {tmp_path}/elsewhere/other, weight: 4}}, {{prefix: {tmp_path}/elsewhere/train-prose, weight: 2}}]"
    resume(run_on(small_run, tmp_path / "elsewhere", train), saved)


def test_other_tokens_under_the_same_name_are_refused_with_what_differs(small_run: Path, shards: Path) -> None:
    saved = after_five_steps(run_on(small_run, shards))
    old = open_shard(shards / "train-prose")
    tokens, manifest = np.array(old.tokens), old.manifest
    tokens[5] = (tokens[5] + 1) % 2000
    for suffix in (".bin", ".idx", ".json"):
        (shards / f"train-prose{suffix}").unlink()
    with ShardWriter(shards / "train-prose", vocab_size=2000, tokenizer_sha256=manifest.tokenizer_sha256) as writer:
        writer.add_document(tokens[:-1])
        writer.finish(domain="prose", licence=None, source=None, input_files=(), options=manifest.options)
    message = (
        rf"step-5 was trained on other data: data.train: the tokens of shard {shards}/train-prose are not those it had "
        rf"\(checkpoint {len(tokens)} tokens with sha256 [0-9a-f]{{12}}, now {len(tokens) - 1} with [0-9a-f]{{12}}\): it was "
        r"encoded again. Restore these, or start a new run .* to change the mixture from now on, add it to data.phases with start_sample=40"
    )
    with pytest.raises(ValueError, match=message):
        resume(run_on(small_run, shards), saved)


def test_a_flipped_token_in_the_last_step_is_found_behind_an_unchanged_manifest(small_run: Path, shards: Path) -> None:
    run = run_on(small_run, shards)
    saved = after_five_steps(run)
    data = reader_module.TrainData(open_sources(run), run.data)
    sources, starts = data.places(np.array([35]))
    prefix = data.sources.train[sources[0]].shard.prefix
    was = int(open_shard(prefix).tokens[starts[0] + 7])
    write_token(prefix, int(starts[0]) + 7, was ^ 1)
    with pytest.raises(
        ValueError,
        match=r"last step before checkpoint step-5 \(32 to 39\) are no longer the tokens .* verify PREFIX --deep",
    ):
        resume(run, saved)
    write_token(prefix, int(starts[0]) + 7, was)
    resume(run, saved)


CHANGES = {
    "seed": (["data.seed=7"], r"seed \(checkpoint 42, config 7\)"),
    "length": (["data.seq_length=32"], r"seq_length \(checkpoint 64, config 32\)"),
    "share": (["data.train=[{prefix: S/train-code, weight: 1}, {prefix: S/train-prose}]"],
              r"data.train: the share of S/train-code \(checkpoint weight 2.0, epochs None: 0.666667 of the mixture; config weight 1.0, epochs None: 0.5\)"),
    "missing": (["data.train=[{prefix: S/train-code}]"], r"data.train: shard S/train-prose \(\d+ tokens with sha256 [0-9a-f]{12}\) is missing"),
    "added": (["data.train=[{prefix: S/train-code, weight: 2}, {prefix: S/train-prose}, {prefix: S/validation-prose}]"],
              r"data.train: shard S/validation-prose was not in the mixture"),
    "order": (["data.train=[{prefix: S/train-prose, weight: 1}, {prefix: S/train-code, weight: 2}]"], r"the sources are in a different order"),
    "cut": (["data.validation_fraction=0.1"], r"data.validation_fraction leaves \d+ of \d+ tokens of shard S/train-code to train on \(checkpoint \d+\)"),
    "phase put before": (["data.phases=[{start_sample: 39, train: [{prefix: S/train-code}]}]"],
                         r"start_sample of the mixtures that have started \(checkpoint \[0\], config \[0, 39\]\)"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CHANGES.values(), ids=list(CHANGES))
def test_what_changes_the_samples_so_far_is_refused_by_name(
    changes: list[str], message: str, small_run: Path, shards: Path
) -> None:
    saved = after_five_steps(run_on(small_run, shards))
    overrides = [change.replace("S/", f"{shards}/") for change in changes]
    with pytest.raises(ValueError, match="step-5 was trained on other data: .*" + message.replace("S/", f"{shards}/")):
        resume(run_on(small_run, shards, *overrides), saved)


def test_phases_that_have_not_begun_may_come_go_and_change(small_run: Path, shards: Path) -> None:
    later = "data.phases=[{{start_sample: 16, train: [{{prefix: {s}/train-prose}}]}}, {{start_sample: {at}, train: [{{prefix: {s}/{name}}}]}}]"
    saved = after_five_steps(run_on(small_run, shards, later.format(s=shards, at=99, name="train-code")))
    for at, name in ((99, "validation-prose"), (40, "train-code"), (41, "validation-code")):
        resume(run_on(small_run, shards, later.format(s=shards, at=at, name=name)), saved)
    only_begun = f"data.phases=[{{start_sample: 16, train: [{{prefix: {shards}/train-prose}}]}}]"
    resume(run_on(small_run, shards, only_begun), saved)
    with pytest.raises(ValueError, match=rf"data.phases\[0\].train: shard {shards}/train-prose .* is missing"):
        resume(run_on(small_run, shards, only_begun.replace("train-prose", "train-code")), saved)


def test_an_order_that_another_version_gave_is_refused(small_run: Path, shards: Path) -> None:
    saved = after_five_steps(run_on(small_run, shards))
    cursors = [source.cursor + shift for source, shift in zip(saved.sources, (1, -1), strict=True)]
    other = replace(saved, sources=tuple(replace(s, cursor=c) for s, c in zip(saved.sources, cursors, strict=True)))
    with pytest.raises(
        ValueError,
        match=r"train-code had given \d+ samples, and would have given \d+ in this version: .* use the version",
    ):
        resume(run_on(small_run, shards), other)


def test_sums_over_ranks_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    from pretrain.parallel.reduce import wrapping_sum

    monkeypatch.setattr(dist, "all_reduce", lambda box: box.mul_(3))  # three ranks with the same values
    assert wrapping_sum([2**64 - 1, 2**63, 5], ALONE) == [2**64 - 3, 2**63, 15]


def test_weights_in_the_same_ratio_are_the_same_mixture(small_run: Path, shards: Path) -> None:
    def weighed(code: float, prose: float) -> RunConfig:
        train = f"[{{prefix: {shards}/train-code, weight: {code}}}, {{prefix: {shards}/train-prose, weight: {prose}}}]"
        return run_on(small_run, shards, f"data.train={train}")

    saved = after_five_steps(weighed(0.3, 0.7))
    resume(weighed(3, 7), saved)
    with pytest.raises(ValueError, match=r"the share of .*train-code .*weight 0.3.*config weight 3.0001"):
        resume(weighed(3.0001, 7), saved)


def test_other_documents_of_the_same_tokens_matter_where_documents_are_kept_apart(
    small_run: Path, shards: Path
) -> None:
    plain, masked = (run_on(small_run, shards, f"data.document_mask={mask}") for mask in ("false", "true"))
    saved = {run.data.document_mask: after_five_steps(run) for run in (plain, masked)}
    prefix = shards / "train-code"
    shard = open_shard(prefix)
    tokens, manifest = shard.tokens.copy(), shard.manifest
    for path in shards.glob("train-code.*"):
        path.unlink()
    with ShardWriter(prefix, vocab_size=2000, tokenizer_sha256=manifest.tokenizer_sha256) as writer:
        writer.add_documents(np.full(len(tokens) // 2, 2, np.int32), tokens[: len(tokens) // 2 * 2])
        if len(tokens) % 2:
            writer.add_document(tokens[-1:])
        writer.finish(domain="code", licence=None, source=None, input_files=[], options=manifest.options)
    resume(plain, saved[False])
    with pytest.raises(ValueError, match=r"the index of shard .*train-code cuts its tokens into different documents"):
        resume(masked, saved[True])
