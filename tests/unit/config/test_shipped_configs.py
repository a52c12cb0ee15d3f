"""The configurations in configs/: what they resolve to, and Lucie-7B's recipe figure by figure."""

from pathlib import Path

import pytest

from pretrain.config.derive import padded_vocab_size, world_size
from pretrain.config.load import load_run, to_yaml
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at, global_batch_size_at, train_samples
from pretrain.model.families.sizes import num_parameters
from pretrain.optim.schedule import learning_rate
from tests.golden.regenerate import CONFIGS, golden_path

LUCIE = Path(__file__).parents[3] / "configs" / "lucie-7b"


def lucie(phase: str) -> RunConfig:
    return load_run(LUCIE / f"{phase}.yaml")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_resolves_to_its_golden_tree(config: Path) -> None:
    message = "if the change is meant: python -m tests.golden.regenerate, and read the difference"
    assert to_yaml(load_run(config)) == golden_path(config).read_text(), message


def test_no_golden_tree_is_left_of_a_config_that_is_gone() -> None:
    assert {golden_path(config) for config in CONFIGS} == set(golden_path(CONFIGS[0]).parent.glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_resolved_tree_is_a_config_again(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(load_run(config)))
    assert load_run(path) == load_run(config)


@pytest.mark.parametrize("phase", ["pretrain", "pretrain-fast", "extension", "annealing"])
def test_every_phase_of_lucie_is_the_published_model(phase: str) -> None:
    model = lucie(phase).model
    assert num_parameters(model) == 6_706_958_336
    assert padded_vocab_size(model) == 65_024, "no padding"
    shape = (
        model.num_layers,
        model.hidden_size,
        model.ffn_hidden_size,
        model.num_attention_heads,
        model.num_query_groups,
    )
    assert shape == (32, 4096, 12288, 32, 8)
    assert (model.layernorm_epsilon, model.init_method_std) == (1e-5, 0.009)
    assert model.rotary_base == (500_000 if phase.startswith("pretrain") else 20_000_000)


@pytest.mark.parametrize(
    ("phase", "ranks", "steps", "samples", "tokens", "tokens_per_step"),
    [
        ("pretrain", 512, 753_851, 762_144_064, 3_121_742_086_144, 4_194_304),
        ("pretrain-fast", 512, 754_047, 762_143_744, 3_121_740_775_424, 4_194_304),
        ("extension", 128, 1_220, 156_160, 4_997_120_000, 4_096_000),
        ("annealing", 128, 1_220, 156_160, 4_997_120_000, 4_096_000),
    ],
)
def test_a_phase_of_lucie_has_the_published_length(
    phase: str, ranks: int, steps: int, samples: int, tokens: int, tokens_per_step: int
) -> None:
    run = lucie(phase)
    assert world_size(run.parallel) == ranks
    assert run.train.train_steps == steps
    assert train_samples(run.optim, run.train) == samples
    assert samples * run.data.seq_length == tokens
    assert run.train.global_batch_size * run.data.seq_length == tokens_per_step


@pytest.mark.parametrize(
    ("consumed", "batch"),
    [(0, 256), (833_333, 256), (833_334, 320), (1_666_667, 384), (5_000_000, 640), (9_999_999, 960), (10_000_000, 1024),
     (10_000_001, 1024), (700_000_000, 1024)],
)  # fmt: skip
def test_lucie_s_batch_grows_from_256_by_64_over_10_million_samples(consumed: int, batch: int) -> None:
    assert global_batch_size_at(lucie("pretrain").train, consumed) == batch


@pytest.mark.parametrize(("consumed", "batch"), [(0, 512), (9_999_999, 512), (10_000_000, 1024), (700_000_000, 1024)])
def test_the_fast_layout_s_batch_is_512_over_the_same_10_million_samples(consumed: int, batch: int) -> None:
    assert global_batch_size_at(lucie("pretrain-fast").train, consumed) == batch


def test_the_fast_layout_reads_the_published_samples_but_for_less_than_a_step() -> None:
    fast, published = (train_samples(run.optim, run.train) for run in (lucie("pretrain-fast"), lucie("pretrain")))
    assert 0 <= published - fast < 512


@pytest.mark.parametrize(
    ("phase", "step", "rate"),
    [
        ("pretrain", 0, 0.0),
        ("pretrain", 3_256, 3e-4 * 3_256 * 256 / 2_000_000),  # still at the first batch size: 833,536 samples
        ("extension", 0, 2e-5),
        ("extension", 1_219, 2e-5),
        ("annealing", 0, 3e-5),
        ("annealing", 610, 3e-5 * (1 - 610 * 128 / 156_250)),
        ("annealing", 1_219, 3e-5 * (1 - 1_219 * 128 / 156_250)),
    ],
)
def test_lucie_s_learning_rate_at_chosen_steps(phase: str, step: int, rate: float) -> None:
    run = lucie(phase)
    assert learning_rate(run.optim, run.train, consumed_samples_at(run.train, step)) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("consumed", "rate"),
    [
        (1_000_000, 1.5e-4),
        (2_000_000, 3e-4),
        ((762_144_586 + 2_000_000) // 2, 1.65e-4),  # the middle of the cosine
        (762_144_586, 3e-5),
        (762_144_587, 3e-5),
    ],
)
def test_lucie_s_learning_rate_at_chosen_samples(consumed: int, rate: float) -> None:
    run = lucie("pretrain")
    assert learning_rate(run.optim, run.train, consumed) == pytest.approx(rate, rel=1e-8)


def test_the_phases_of_lucie_begin_with_one_another() -> None:
    pretrain, extension, annealing = lucie("pretrain"), lucie("extension"), lucie("annealing")
    assert pretrain.checkpoint.init_from is None
    assert (extension.checkpoint.init_from, extension.checkpoint.init_optimizer) == (pretrain.run_dir, "keep")
    assert (annealing.checkpoint.init_from, annealing.checkpoint.init_optimizer) == (extension.run_dir, "keep")
    assert extension.data.tokenizer == annealing.data.tokenizer == pretrain.data.tokenizer


def test_the_fast_layout_changes_the_layout_and_the_ramp_alone() -> None:
    published, fast = lucie("pretrain"), lucie("pretrain-fast")
    assert fast.model == published.model
    assert fast.data == published.data
    assert fast.optim == published.optim
    assert fast.parallel.use_distributed_optimizer
    assert fast.parallel.overlap_grad_reduce and fast.parallel.overlap_param_gather
    assert fast.train.recompute == "none" and published.train.recompute == "full"
    ramps = fast.train.batch_ramp, published.train.batch_ramp
    assert None not in ramps and len({ramp.samples for ramp in ramps if ramp is not None}) == 1
