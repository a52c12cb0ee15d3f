"""The small twin of a run: what it keeps, what becomes smaller and by which rule, and what is no scale."""

import functools
from dataclasses import asdict, fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.recipes import RECIPES, name_of
from fanal.errors import UserError
from fanal.run_progress import NEW_RUN
from pretrain.__main__ import cli
from pretrain.config.derive import kv_channels, layer_parameters
from pretrain.config.load import load_run, to_yaml
from pretrain.config.rules import check, check_rate_left
from pretrain.config.scale import parse_scale, scaled
from pretrain.config.schema import BatchRampConfig, BatchStageConfig, PhaseConfig, RunConfig, SourceConfig
from pretrain.config.steps import train_samples
from pretrain.model.families import family_of
from pretrain.optim.schedule import learning_rate
from tests.unit.config.test_rules import CONFIG as YAML

ROOT = Path(__file__).parents[3]
LUCIE = ROOT / "configs" / "lucie-7b" / "pretrain.yaml"
SCALES = ("1/8", "1/64", "1/4096")
SMALLER = {
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "init_method_std",
    "query_pre_attention_scalar",
}  # fmt: skip
FOLLOWS = {
    "optim": set(),  # all whose name says that they count samples or updates
    "train": {"train_steps", "global_batch_size", "micro_batch_size", "validation_interval"},
    "checkpoint": {"interval", "keep_every_steps"},
    "data": set(),
}
"""Counts of steps and samples that a twin has fewer of."""
STAYS = {
    "optim": {"muon_num_ns_steps"},
    "train": {"loss_chunk_tokens", "recompute_num_layers", "seed", "validation_samples", "max_skipped_steps"},
    "checkpoint": {"keep_last", "max_failed_saves"},
    "data": {"seq_length", "seed", "prefetch_bytes"},
}
"""Whole numbers that a twin keeps: they are no counts of the run's steps or samples."""


def twin(recipe: Path, scale: str, *overrides: str) -> RunConfig:
    return load_run(recipe, overrides, scale)


@functools.cache
def published(recipe: Path) -> RunConfig:
    """A recipe, read once for all tests."""
    return load_run(recipe)


@functools.cache
def small_of(recipe: Path, scale: str) -> RunConfig:
    """Its twin."""
    return scaled(published(recipe), parse_scale(scale))


def layers_of(run: RunConfig) -> int:
    return run.model.num_layers * layer_parameters(run.model)


@pytest.mark.parametrize(
    "text", ["0", "3/2", "1", "text", "1/0", "-1/64", "1e-3", "", "1/64 ", "1//64", "0.0", "nan", "9" * 50]
)
def test_what_is_no_fraction_below_one_is_refused_with_one_that_works(text: str) -> None:
    with pytest.raises(UserError, match=r"--scale \(.*\) must be a fraction above 0 and below 1; --scale 1/64 works"):
        load_run(LUCIE, (), text)
    assert parse_scale("1/64") == Fraction(1, 64) == parse_scale("0.015625")


def test_a_config_that_cannot_run_has_no_twin(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(YAML.replace("num_query_groups: 4", "num_query_groups: 3"))
    with pytest.raises(UserError, match=r"num_attention_heads .* must be a multiple of model\.num_query_groups"):
        load_run(path, (), "1/2")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_twin_is_of_the_same_kind_and_fits_two_by_two_ranks(recipe: Path, scale: str) -> None:
    whole, small = published(recipe), small_of(recipe, scale)
    check(small)
    check_rate_left(small.optim, small.train, NEW_RUN)
    check(
        replace(small, parallel=replace(small.parallel, tensor_model_parallel_size=2, pipeline_model_parallel_size=2))
    )
    before, after = asdict(whole.model), asdict(small.model)
    assert {name for name in before if before[name] != after[name]} <= SMALLER
    assert family_of(small.model) is family_of(whole.model)
    heads = [run.model.num_attention_heads / run.model.num_query_groups for run in (whole, small)]
    assert heads[0] == heads[1]
    assert kv_channels(small.model) >= 16 and kv_channels(small.model) % 2 == 0
    ratios = [run.model.ffn_hidden_size / run.model.hidden_size for run in (whole, small)]
    assert ratios[1] == pytest.approx(ratios[0], rel=0.1)
    for interval in (whole.model.full_attention_layer_interval, whole.model.no_rope_layer_interval):
        assert interval is None or small.model.num_layers % interval == 0


@pytest.mark.parametrize(("scale", "off"), [("1/8", 0.15), ("1/64", 0.15), ("1/512", 0.5), ("1/4096", 1.1)])
@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_twin_s_layers_have_about_that_part_of_the_parameters(recipe: Path, scale: str, off: float) -> None:
    """At the smallest scale two layers, two groups of heads or four layers of a pattern may be more than the part."""
    whole, small = published(recipe), small_of(recipe, scale)
    assert layers_of(small) / layers_of(whole) == pytest.approx(float(Fraction(scale)), rel=off)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_twin_has_as_many_tokens_for_each_parameter_and_the_shape_of_the_schedule(recipe: Path, scale: str) -> None:
    whole, small, part = published(recipe), small_of(recipe, scale), float(Fraction(scale))
    wanted = train_samples(whole.optim, whole.train) * part
    assert wanted - 1 <= train_samples(small.optim, small.train) <= wanted + small.train.global_batch_size + 1
    factor = small.optim.lr / whole.optim.lr
    assert factor == pytest.approx(part**-0.25, rel=1e-3)
    for at in (0.001, 0.01, 0.3, 0.6, 0.9, 0.99):
        consumed = int(train_samples(whole.optim, whole.train) * at)
        rates = [
            learning_rate(run.optim, run.train, int(consumed * share)) for run, share in ((whole, 1), (small, part))
        ]
        # A small twin counts a warm-up in few samples.
        assert rates[1] == pytest.approx(
            rates[0] * factor, rel=0.02, abs=small.optim.lr * 2 / max(1, consumed * part)
        ), at


def test_lucie_s_twin_figure_by_figure() -> None:
    small = twin(LUCIE, "1/64")
    model, train, optim = small.model, small.train, small.optim
    shape = (
        model.num_layers,
        model.hidden_size,
        model.ffn_hidden_size,
        model.num_attention_heads,
        model.num_query_groups,
    )
    assert shape == (8, 1024, 3072, 8, 2) and model.kv_channels == 128 and model.vocab_size == 65_024
    assert model.init_method_std == 0.018, "a quarter of the width, a quarter of what variances must be"
    assert small.run_dir == "runs/lucie-7b/pretrain-scale-1-64"
    assert (train.global_batch_size, train.batch_ramp) == (69, BatchRampConfig(start=17, increment=4, samples=156_250))
    assert (optim.lr_warmup_samples, optim.lr_decay_samples) == (31_250, 11_908_509)
    assert small.parallel == replace(
        load_run(LUCIE).parallel, tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=None
    )
    assert small.data == load_run(LUCIE).data


def test_the_twin_of_a_run_that_divides_its_sequences_divides_none() -> None:
    whole, divided = load_run(LUCIE), load_run(LUCIE, ["parallel.context_parallel_size=2"])
    assert divided.parallel != whole.parallel
    assert scaled(divided, parse_scale("1/64")) == scaled(whole, parse_scale("1/64"))


def test_a_phase_s_twin_begins_with_the_twin_of_the_phase_before() -> None:
    first, second = (twin(LUCIE.with_name(f"{phase}.yaml"), "1/64") for phase in ("pretrain", "extension"))
    assert second.checkpoint.init_from == first.run_dir
    assert second.model == replace(first.model, rotary_base=20_000_000.0)


def test_overrides_change_the_twin() -> None:
    small = twin(LUCIE, "1/64", "train.train_steps=5", "model.num_layers=3", "parallel.data_parallel_size=2", "train.global_batch_size=8",
                 "train.batch_ramp=null")  # fmt: skip
    assert (small.train.train_steps, small.model.num_layers, small.parallel.data_parallel_size) == (5, 3, 2)
    assert small.optim == twin(LUCIE, "1/64").optim, "five steps are the beginning of the same schedule"


def test_a_twin_is_a_config_again_which_is_read_without_a_scale(tmp_path: Path) -> None:
    small = twin(LUCIE, "1/64")
    path = tmp_path / "twin.yaml"
    path.write_text(to_yaml(small))
    assert load_run(path) == small


def test_mixtures_take_over_at_the_same_part_of_the_run_and_never_at_once(tmp_path: Path) -> None:
    run = load_run(LUCIE)
    starts = (64_000, 64_010, 640_000)
    mixture = [SourceConfig(prefix="a")]
    data = replace(run.data, train=mixture, phases=[PhaseConfig(start_sample=at, train=mixture) for at in starts])
    small = scaled(replace(run, data=data), Fraction(1, 64))
    assert [phase.start_sample for phase in small.data.phases] == [1_000, 1_001, 10_000]


STAGED = (
    BatchRampConfig(start=128, increment=64, samples=1_000_000),
    [
        BatchStageConfig(start_sample=1_000_001, global_batch_size=2_048),
        BatchStageConfig(start_sample=1_000_400, global_batch_size=3_072),
        BatchStageConfig(start_sample=300_000_000, global_batch_size=4_096),
    ],
)
"""A ramp, a batch right after it, another soon after that, and a late one."""


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ramp", [STAGED[0], None], ids=["after a ramp", "without a ramp"])
def test_the_stages_of_the_batch_keep_their_order_and_follow_the_ramp(scale: str, ramp: BatchRampConfig | None) -> None:
    run = load_run(LUCIE)
    whole = replace(run, train=replace(run.train, batch_ramp=ramp, batch_stages=STAGED[1]))
    check(whole)
    part = parse_scale(scale)
    small = scaled(whole, part)
    check(small)
    stages, factor = small.train.batch_stages, float(part) ** 0.6542
    assert stages[-1].start_sample == int(300_000_000 * part)
    assert stages[-1].global_batch_size == pytest.approx(4_096 * factor, rel=0.05, abs=2)
    starts = [stage.start_sample for stage in stages]
    assert starts == sorted(set(starts)) and starts[0] > (
        small.train.batch_ramp.samples if small.train.batch_ramp else 0
    )
    assert all(stage.global_batch_size % small.train.micro_batch_size == 0 for stage in stages)


def test_stages_of_the_batch_that_a_scale_cannot_tell_apart_become_the_last_of_them() -> None:
    run = load_run(LUCIE)
    staged = replace(run, train=replace(run.train, batch_ramp=STAGED[0], batch_stages=STAGED[1]))
    small = scaled(staged, Fraction(1, 4096))
    assert small.train.batch_ramp == BatchRampConfig(start=1, increment=1, samples=244)
    assert small.train.batch_stages == [
        BatchStageConfig(start_sample=245, global_batch_size=13),
        BatchStageConfig(start_sample=73_242, global_batch_size=18),
    ]


def test_steps_between_validations_and_checkpoints_are_the_same_part_of_the_run(tmp_path: Path) -> None:
    run = load_run(ROOT / "configs" / "1b.yaml")
    small = scaled(run, Fraction(1, 64))
    part = small.train.train_steps / run.train.train_steps
    assert small.train.validation_interval == int(500 * part) and small.checkpoint.interval == int(1000 * part)
    assert small.checkpoint.keep_last == 3


def test_a_twin_keeps_the_iterations_inside_an_update() -> None:
    """Newton-Schulz steps of Muon are no steps of the run: with one of five its updates are far from orthogonal."""
    run = load_run(
        ROOT / "configs" / "1b.yaml",
        ["optim.name=ademamix", "optim.ademamix_alpha_warmup_steps=1000", "optim.ademamix_beta3_warmup_steps=0"],
    )
    small = scaled(run, Fraction(1, 64))
    assert small.optim.muon_num_ns_steps == run.optim.muon_num_ns_steps == 5
    assert small.optim.ademamix_alpha_warmup_steps == int(
        1000 * Fraction(small.train.train_steps, run.train.train_steps)
    )


@pytest.mark.parametrize("section", FOLLOWS)
def test_every_whole_number_of_a_config_is_known_to_follow_or_to_stay(section: str) -> None:
    """A new key that counts steps or samples must be scaled in pretrain/config/scale.py; say here which it is."""
    annotations = {field.name: str(field.type) for field in fields(getattr(load_run(LUCIE), section))}
    whole = {name for name, kind in annotations.items() if kind in ("int", "int | None", "<class 'int'>")}
    follow = (
        {name for name in whole if name.endswith(("_samples", "_sample", "_steps"))} - STAYS[section]
        if section == "optim"
        else FOLLOWS[section]
    )
    assert whole == follow | STAYS[section]
    assert not FOLLOWS[section] & STAYS[section]


@pytest.mark.parametrize("command", ["train", "show", "rehearse"])
def test_a_command_refuses_what_is_no_scale_in_one_line(command: str) -> None:
    result = CliRunner().invoke(cli, [command, str(LUCIE), "--scale", "3/2"])
    assert result.exit_code == 2
    assert result.stderr == "error: --scale ('3/2') must be a fraction above 0 and below 1; --scale 1/64 works\n"
