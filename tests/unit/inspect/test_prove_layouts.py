"""Which layouts a proof takes, what it changes in the config, and when it kills."""

from dataclasses import replace
from pathlib import Path

import pytest

from fanal.run_progress import Standing
from pretrain.config.load import load_run, to_yaml
from pretrain.config.schema import RunConfig
from pretrain.config.steps import lr_decay_samples
from pretrain.inspect.layouts import layouts_for
from pretrain.inspect.prove_plan import kill_plans, num_steps, proof_overrides, with_decay_stated
from pretrain.optim.schedule import learning_rate
from tests.runs.cases import DP2, ONE_AND_THREE, PP2, PP4, SP, TP2, VP2
from tests.runs.small import write_small_run

CP4 = ("parallel.context_parallel_size=4",)
TP4 = ("parallel.tensor_model_parallel_size=4", "model.num_query_groups=4")
LIGHT_FIRST = ("model.num_layers=7", "parallel.num_layers_in_first_pipeline_stage=1")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_small_run(tmp_path)


def names(run: RunConfig, num_ranks: int) -> tuple[str, list[str]]:
    base, others = layouts_for(run, num_ranks=num_ranks)
    return base.name, [layout.name for layout in others]


@pytest.mark.parametrize(
    ("overrides", "num_ranks", "expected"),
    [
        ((), 4, ("one-rank", ["TP2", "PP2", "CP2", "DP2"])),
        ((), 1, ("one-rank", [])),
        ((*TP2, *PP2), 4, ("TP2-PP2", ["one-rank", "TP2", "PP2", "CP2", "DP2"])),
        (DP2, 2, ("DP2", ["one-rank", "TP2", "PP2", "CP2"])),
        ((*PP2, *VP2), 4, ("PP2-VP2", ["one-rank", "TP2", "CP2", "DP2"])),
        ((*TP4, *PP2), 4, ("TP2-PP2", ["one-rank", "TP2", "PP2", "CP2", "DP2"])),
        (("parallel.data_parallel_size=4", *TP2), 2, ("TP2", ["one-rank", "PP2", "CP2", "DP2"])),
        (
            ("model.ffn_hidden_size=177", "model.num_layers=1", "train.global_batch_size=2", "data.seq_length=126"),
            4,
            ("one-rank", []),
        ),
        (("model.num_layers=5",), 4, ("one-rank", ["TP2", "PP2-layers-3-2", "CP2", "DP2"])),
        ((*PP2, *ONE_AND_THREE), 4, ("PP2-layers-1-3", ["one-rank", "TP2", "PP2", "CP2", "DP2"])),
        ((*PP4, *LIGHT_FIRST), 2, ("PP2-layers-4-3", ["one-rank", "TP2", "CP2", "DP2"])),
        ((*PP4, *LIGHT_FIRST), 4, ("PP4-layers-1-2-2-2", ["one-rank", "TP2", "PP2-layers-4-3", "CP2", "DP2"])),
        (("model.ffn_hidden_size=177",), 4, ("one-rank", ["PP2", "CP2", "DP2"])),
        (("model.num_query_groups=1",), 4, ("one-rank", ["TP2", "PP2", "CP2", "DP2"])),
        (("data.seq_length=126",), 4, ("one-rank", ["TP2", "PP2", "DP2"])),
        ((*TP2, *SP, "data.seq_length=124"), 4, ("TP2", ["one-rank", "PP2", "CP2", "DP2"])),
        ((*CP4,), 4, ("CP4", ["one-rank", "TP2", "PP2", "CP2", "DP2"])),
        ((*CP4, *TP2), 4, ("TP2-CP2", ["one-rank", "TP2", "PP2", "CP2", "DP2"])),
        ((*CP4, *PP2), 4, ("PP2-CP2", ["one-rank", "TP2", "PP2", "CP2", "DP2"])),
        ((*CP4, *DP2), 4, ("CP2-DP2", ["one-rank", "TP2", "PP2", "CP2", "DP2"])),
        (CP4, 2, ("CP2", ["one-rank", "TP2", "PP2", "DP2"])),
        ((*CP4, *TP2), 1, ("one-rank", [])),
        (
            (*TP2, *SP, *PP2, "parallel.context_parallel_size=3", "data.seq_length=120"),
            4,
            ("TP2-PP2", ["one-rank", "TP2", "PP2", "CP2", "DP2"]),
        ),
    ],
)
def test_layouts_are_those_that_the_config_s_rules_and_the_ranks_allow(
    overrides: tuple[str, ...], num_ranks: int, expected: tuple[str, list[str]], config: Path
) -> None:
    assert names(load_run(config, overrides), num_ranks) == expected


def test_each_layout_is_a_config_that_loads(config: Path) -> None:
    run = load_run(config, [*TP2, *PP2, *SP, *VP2])
    base, others = layouts_for(run, num_ranks=4)
    for layout in (base, *others):
        load_run(config, [*TP2, *PP2, *SP, *VP2, *layout.overrides])
    for unequal in ((*PP2, *ONE_AND_THREE), (*PP4, *LIGHT_FIRST), ("model.num_layers=5",)):
        base, others = layouts_for(load_run(config, unequal), num_ranks=4)
        for layout in (base, *others):
            load_run(config, [*unequal, *layout.overrides])
    base, others = layouts_for(run, num_ranks=4)
    assert load_run(config, [*TP2, *SP, *PP2, *base.overrides]).parallel.sequence_parallel
    assert not load_run(config, [*TP2, *SP, *others[0].overrides]).parallel.sequence_parallel
    sizes = [load_run(config, [*CP4, *layout.overrides]).parallel.context_parallel_size for layout in (base, *others)]
    assert sizes == [2 if "CP2" in layout.name else 1 for layout in (base, *others)], (
        "each states it, whatever the config has"
    )


def test_a_decay_that_the_run_has_begun_is_stated_in_the_proof(config: Path) -> None:
    constant = ["optim.lr_decay_style=constant", "optim.lr_wsd_decay_samples=40", "train.train_steps=1000"]
    run = load_run(config, constant)
    assert with_decay_stated(run, None) == run
    for decay_samples in (None, 500):
        begun = replace(run, optim=replace(run.optim, lr_decay_samples=decay_samples))
        stated = with_decay_stated(begun, 32)
        config.write_text(to_yaml(stated))
        short = load_run(config, proof_overrides(stated.optim, stated.train, 8))
        for sample in range(0, 80):
            of_the_run = learning_rate(begun.optim, begun.train, sample, Standing(4, 32, decay_start_sample=32))
            assert learning_rate(short.optim, short.train, sample) == of_the_run


def test_the_schedule_of_the_proof_is_that_of_the_whole_run(config: Path) -> None:
    run = load_run(config, ["train.train_steps=1000"])
    short = load_run(config, ["train.train_steps=1000", *proof_overrides(run.optim, run.train, 8)])
    assert short.train.train_steps == 8
    assert lr_decay_samples(short.optim, short.train) == lr_decay_samples(run.optim, run.train) == 8000
    assert (
        to_yaml(short).replace("lr_decay_samples: 8000", "lr_decay_samples: null").split("train:")[0]
        == to_yaml(run).split("train:")[0]
    )


def test_a_proof_on_a_gpu_asks_for_the_same_bits_each_time(config: Path) -> None:
    run = load_run(config, [])
    on_gpu, on_cpu = (
        load_run(config, list(proof_overrides(run.optim, run.train, 8, device=device))) for device in ("cuda", "cpu")
    )
    assert on_gpu.train.deterministic and not on_cpu.train.deterministic


def test_steps_that_hold_no_checkpoint_or_that_the_run_has_not_are_refused(config: Path) -> None:
    run = load_run(config, ["train.train_steps=6"])
    assert num_steps(run.train, None) == 6 and num_steps(run.train, 4) == 4
    with pytest.raises(ValueError, match=r"--steps \(7\) must not be above train.train_steps \(6\)"):
        num_steps(run.train, 7)
    with pytest.raises(ValueError, match=r"--steps \(3; .* must be at least 4"):
        num_steps(run.train, 3)
    with pytest.raises(ValueError, match=r"--kills \(0\) must be at least 1"):
        kill_plans(kills=0, steps=8, num_ranks=2, seed=1)
    with pytest.raises(ValueError, match=r"--kills \(1000000000000\) must not be above 1,000, .*; --kills 3 works"):
        kill_plans(kills=10**12, steps=8, num_ranks=2, seed=1)


def test_a_seed_gives_the_same_kills_and_each_target_in_turn() -> None:
    plans = kill_plans(kills=6, steps=8, num_ranks=4, seed=5)
    assert (
        plans == kill_plans(kills=6, steps=8, num_ranks=4, seed=5) != kill_plans(kills=6, steps=8, num_ranks=4, seed=6)
    )
    assert {plan.target for plan in plans} == {"one rank", "all ranks", "launcher"}
    assert {plan.aim for plan in plans} == {"save", "step"}
    assert all(plan.needs_checkpoint and 2 <= plan.after_step <= 6 for plan in plans)
    assert [plan.after_step for plan in plans] == sorted(plan.after_step for plan in plans)


@pytest.mark.parametrize("steps", [4, 5, 8, 9])
def test_no_kill_is_aimed_at_the_last_save(steps: int) -> None:
    plans = [plan for seed in range(20) for plan in kill_plans(kills=4, steps=steps, num_ranks=1, seed=seed)]
    last_save = {4: 2, 5: 4, 8: 6, 9: 8}[steps]
    assert max(plan.after_step for plan in plans) == last_save < steps
    assert any(plan.aim == "save" for plan in plans) == (steps > 4), (
        "of 4 steps only the last save follows a whole checkpoint"
    )
