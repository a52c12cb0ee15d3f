"""Shards of a configuration: opened, checked, refused by name."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data import sources as sources_module
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from tests.unit.data.shards import copy_shard
from tokenizer.shards.shard import EncodeOptions, ShardWriter, open_shard


def run_with(small_run: Path, *overrides: str) -> RunConfig:
    return load_run(small_run, overrides)


def test_sources_know_their_domain(small_run: Path) -> None:
    sources = open_sources(run_with(small_run))
    assert [source.domain for source in sources.train] == ["code", "prose"]
    assert [source.domain for source in sources.validation] == ["code", "prose"]


def test_a_sample_is_a_slice_of_its_source(small_run: Path) -> None:
    run = run_with(small_run)
    data = TrainData(open_sources(run), run.data)
    sources, ranks = data.mixture.locate(np.array([1234]))
    source = data.sources.train[sources[0]]
    start = source.start_token(ranks[0])
    assert np.array_equal(data.sample(1234), source.shard.tokens[start : start + 65])
    assert data.sample(1234).shape == (65,)


def test_a_missing_shard_is_refused_with_its_path(small_run: Path) -> None:
    with pytest.raises(ValueError, match="/nowhere/shard"):
        open_sources(run_with(small_run, "data.train=[{prefix: /nowhere/shard}]"))


def test_a_sequence_longer_than_a_source_is_refused_with_a_length_that_works(small_run: Path) -> None:
    with pytest.raises(ValueError, match=r"data.seq_length \(9000000\) needs sources of at least") as caught:
        open_sources(run_with(small_run, "data.seq_length=9_000_000", "data.validation=[]"))
    works = str(caught.value).rpartition(" ")[2]
    sources = open_sources(run_with(small_run, works, "data.validation=[]"))
    assert sources.train[0].order.chunks_per_epoch == 1


def test_a_missing_tokenizer_is_refused_with_its_path(small_run: Path) -> None:
    with pytest.raises(ValueError, match="/nowhere/tokenizer"):
        open_sources(run_with(small_run, "data.tokenizer=/nowhere/tokenizer"))


def test_a_domain_named_in_the_config_wins(small_run: Path, data_folder: Path) -> None:
    prefix = data_folder / "shards" / "train-code"
    sources = open_sources(run_with(small_run, f"data.train=[{{prefix: {prefix}, domain: python}}]"))
    assert sources.train[0].domain == "python"


def test_moving_and_renaming_the_shards_leaves_the_order_and_another_seed_changes_it(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"renamed{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())

    def starts(prefix: Path, *overrides: str) -> list[int]:
        sources = open_sources(
            run_with(small_run, f"data.train=[{{prefix: {prefix}}}]", "data.validation=[]", *overrides)
        )
        return [sources.train[0].order.start_token(rank) for rank in range(50)]

    here = starts(data_folder / "shards" / "train-code")
    assert starts(tmp_path / "renamed") == here
    assert starts(tmp_path / "renamed", "data.seed=7") != here


def test_validation_chunks_lie_in_a_row(small_run: Path) -> None:
    validation = open_sources(run_with(small_run)).validation
    assert [validation[0].start_token(rank) for rank in range(3)] == [0, 64, 128]


def test_a_vocabulary_smaller_than_the_tokenizer_s_is_refused(small_run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model.vocab_size \(1999\) must be at least the 2000 tokens .*; model.vocab_size=2000 works"
    ):
        open_sources(run_with(small_run, "model.vocab_size=1999"))


def test_a_shard_of_another_tokenizer_is_refused(small_run: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "other", vocab_size=2000, tokenizer_sha256="ab" * 32) as writer:
        writer.add_document(list(range(500)))
        writer.finish(domain="code", licence=None, source=None, input_files=(), options=options())
    with pytest.raises(
        ValueError, match=r"was encoded with the tokenizer abababababab and data.tokenizer .* is [0-9a-f]{12}"
    ):
        open_sources(run_with(small_run, f"data.train=[{{prefix: {tmp_path / 'other'}}}]"))


def options() -> EncodeOptions:
    return EncodeOptions(append_bos=True, append_eos=True, text_field="text")


def test_validation_text_that_is_trained_on_is_refused_even_under_another_name(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"copy{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())
    with pytest.raises(ValueError, match=r"holds the same tokens as the training shard .* must never be trained on"):
        open_sources(run_with(small_run, f"data.validation=[{{prefix: {tmp_path / 'copy'}}}]"))


def test_a_shard_named_twice_is_refused_with_the_weight_that_means_it(small_run: Path, data_folder: Path) -> None:
    prefix = data_folder / "shards" / "train-code"
    with pytest.raises(ValueError, match=r"data.train names the same tokens twice: .* name them once, with weight=3"):
        open_sources(
            run_with(small_run, f"data.train=[{{prefix: {prefix}, weight: 2}}, {{prefix: {prefix}, weight: 1}}]")
        )


def test_a_cut_shard_is_refused(small_run: Path, data_folder: Path, tmp_path: Path) -> None:
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"cut{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())
    with (tmp_path / "cut.bin").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(ValueError, match=r"cut.bin"):
        open_sources(run_with(small_run, f"data.train=[{{prefix: {tmp_path / 'cut'}}}]"))


def test_epochs_make_a_shard_s_share_its_tokens_times_its_passes(small_run: Path, data_folder: Path) -> None:
    code, prose = (data_folder / "shards" / f"train-{domain}" for domain in ("code", "prose"))
    run = run_with(small_run, f"data.train=[{{prefix: {code}, epochs: 1.5}}, {{prefix: {prose}, epochs: 3}}]")
    weights = open_sources(run).phases[0].weights
    assert weights == (open_shard(code).num_tokens * 1.5, open_shard(prose).num_tokens * 3.0)


def test_shards_named_in_several_phases_are_one_source(small_run: Path, data_folder: Path, tmp_path: Path) -> None:
    code = data_folder / "shards" / "train-code"
    moved = copy_shard(code, tmp_path / "moved")
    validation = data_folder / "shards" / "validation-prose"
    run = run_with(
        small_run, "data.validation=[]",
        f"data.phases=[{{start_sample: 9, train: [{{prefix: {validation}}}, {{prefix: {moved}, weight: 3}}]}}]",
    )  # fmt: skip
    sources = open_sources(run)
    assert [source.shard.prefix.name for source in sources.train] == ["train-code", "train-prose", "validation-prose"]
    assert [(phase.start_sample, phase.members) for phase in sources.phases] == [(0, (0, 1)), (9, (2, 0))]
    assert sources.phases[1].weights == (1.0, 3.0)


def test_validation_text_that_a_later_phase_trains_on_is_refused(small_run: Path, data_folder: Path) -> None:
    validation = data_folder / "shards" / "validation-prose"
    with pytest.raises(ValueError, match=r"must never be trained on"):
        open_sources(run_with(small_run, f"data.phases=[{{start_sample: 9, train: [{{prefix: {validation}}}]}}]"))


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_the_last_documents_of_each_source_are_validation_and_never_trained_on(
    small_run: Path, fraction: float
) -> None:
    sources = open_sources(run_with(small_run, "data.validation=[]", f"data.validation_fraction={fraction}"))
    assert [source.domain for source in sources.validation] == ["code", "prose"]
    for train, validation in zip(sources.train, sources.validation, strict=True):
        total, cut = train.shard.num_tokens, train.order.num_tokens
        assert cut in train.shard.document_offsets, "the cut is where a document starts"
        assert fraction * total <= total - cut < fraction * total + np.diff(train.shard.document_offsets).max() + 1
        ranks = np.arange(3 * train.order.chunks_per_epoch)
        assert (train.order.start_tokens(ranks) + 65 <= cut).all()
        starts = [validation.start_token(rank) for rank in range(validation.order.chunks_per_epoch)]
        assert starts[0] == cut and starts[-1] + 65 <= total


def test_a_validation_part_without_a_sample_is_refused(small_run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data.validation_fraction \(1e-06\) cuts shard .* each part needs a sample of .* = 4097"
    ):
        open_sources(run_with(small_run, "data.validation_fraction=1e-6", "data.seq_length=4096", "data.validation=[]"))
    open_sources(run_with(small_run, "data.validation_fraction=0", "data.seq_length=4096", "data.validation=[]"))


def test_the_document_before_a_token_is_found_in_the_file(data_folder: Path) -> None:
    shard = open_shard(data_folder / "shards" / "train-prose")
    offsets = shard.document_offsets
    for token in [0, 1, *offsets[1:4], offsets[3] - 1, *offsets[-3:-1], shard.num_tokens - 1]:
        expected = offsets[np.searchsorted(offsets, token, side="right") - 1]
        assert shard.document_start(int(token)) == expected


def test_opening_maps_no_tokens(small_run: Path) -> None:
    sources = open_sources(run_with(small_run, "data.validation_fraction=0.1"))
    for source in sources.train + sources.validation:
        assert "tokens" not in vars(source.shard) and "document_offsets" not in vars(source.shard)


def test_one_source_has_one_domain(small_run: Path, data_folder: Path) -> None:
    code = data_folder / "shards" / "train-code"
    phase = f"data.phases=[{{start_sample: 9, train: [{{prefix: {code}, domain: NAME}}]}}]"
    with pytest.raises(
        ValueError, match=r"data.phases\[0\].train sets the domain of .* to 'NAME', and it is 'code' .*domain=code"
    ):
        open_sources(run_with(small_run, phase))
    open_sources(run_with(small_run, phase.replace("NAME", "code")))


def test_validation_tokens_are_named_once(small_run: Path, data_folder: Path, tmp_path: Path) -> None:
    shard = data_folder / "shards" / "validation-code"
    copied = copy_shard(shard, tmp_path / "copied")
    with pytest.raises(
        ValueError, match=r"data.validation names the same tokens twice: .*validation-code and .*copied"
    ):
        open_sources(run_with(small_run, f"data.validation=[{{prefix: {shard}}}, {{prefix: {copied}}}]"))


@pytest.mark.parametrize(
    ("weight", "message"), [("1e-300", "a share of 1e-300 in 1, which must be at least"), ("1e308", "add up to inf")]
)
def test_a_share_that_rounds_to_nothing_is_refused(
    small_run: Path, data_folder: Path, weight: str, message: str
) -> None:
    code, prose = (data_folder / "shards" / f"train-{domain}" for domain in ("code", "prose"))
    other = "1e308" if weight == "1e308" else "1"
    train = f"data.train=[{{prefix: {code}, weight: {weight}}}, {{prefix: {prose}, weight: {other}}}]"
    with pytest.raises(ValueError, match=message):
        open_sources(run_with(small_run, train))


def test_more_shards_than_a_system_lets_a_process_open_are_refused_at_once(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(64, 100_000)]
    monkeypatch.setattr(sources_module.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(sources_module.resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    open_sources(run_with(small_run))
    assert limits[-1] == (2 * 4 + 256, 100_000), "the soft limit is raised as far as it must be"
    limits.append((64, 128))
    with pytest.raises(ValueError, match=r"data names 4 shards, which need 260 open files .* this system allows 128"):
        open_sources(run_with(small_run))


def test_the_files_of_a_shard_are_counted_once_however_many_phases_name_it(
    small_run: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = data_folder / "shards" / "train-code"
    phases = ", ".join(f"{{start_sample: {number}, train: [{{prefix: {shard}}}]}}" for number in range(1, 301))
    run = run_with(small_run, f"data.phases=[{phases}]")
    monkeypatch.setattr(sources_module.resource, "getrlimit", lambda _: (64, 300))
    monkeypatch.setattr(sources_module.resource, "setrlimit", lambda *_: None)
    opened = []
    monkeypatch.setattr(sources_module, "open_shard", lambda prefix: opened.append(prefix) or open_shard(prefix))
    assert len(open_sources(run).phases) == 301
    assert sorted(opened) == sorted(set(opened)), "each shard is opened once"
