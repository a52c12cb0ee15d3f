"""Cross-field rules: each error names the fields, their values and a value that works, and that value does work."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.errors import UserError
from fanal.run_folder import COMPLETE, STATE, checkpoints_dir, step_name
from pretrain.config.load import load_run, load_run_to_train
from pretrain.config.rules import check, check_ranks
from pretrain.config.schema import BatchRampConfig, RunConfig

CONFIG = """
run_dir: runs/x
model: {num_layers: 4, hidden_size: 64, ffn_hidden_size: 176, num_attention_heads: 8, num_query_groups: 4, vocab_size: 2000}
data: {tokenizer: t, seq_length: 64, train: [{prefix: a}]}
optim: {lr: 1.0e-3}
train: {train_steps: 10, global_batch_size: 8, micro_batch_size: 2}
"""

CASES = {
    # name: (what breaks the rule, what the message says, what the message says works)
    "zero": (["train.train_steps=0"], "train.train_steps (0) must be above 0 and finite", ["train.train_steps=1"]),
    "negative rate": (["optim.lr=-1e-3"], "optim.lr (-0.001) must be above 0 and finite", ["optim.lr=1e-5"]),
    "negative decay": (["optim.weight_decay=-1"], "optim.weight_decay (-1.0) must be finite and not negative; 0 works", ["optim.weight_decay=0"]),
    "momentum": (["optim.muon_momentum=1"], "optim.muon_momentum (1.0) must be at least 0 and below 1", ["optim.muon_momentum=0.95"]),
    "slow beta": (["optim.ademamix_beta3=1"], "optim.ademamix_beta3 (1.0) must be at least 0 and below 1", ["optim.ademamix_beta3=0.95"]),
    "warm-up of alpha": (["optim.name=ademamix", "optim.ademamix_beta3_warmup_steps=0"],
                         "optim.ademamix_alpha_warmup_steps (null) must be stated with optim.name ademamix", ["optim.ademamix_alpha_warmup_steps=10"]),
    "warm-up of beta3": (["optim.name=ademamix", "optim.ademamix_alpha_warmup_steps=0"],
                         "optim.ademamix_beta3_warmup_steps (null) must be stated with optim.name ademamix", ["optim.ademamix_beta3_warmup_steps=10"]),
    "negative warm-up": (["optim.ademamix_alpha_warmup_steps=-1"],
                         "optim.ademamix_alpha_warmup_steps (-1) must be finite and not negative; 0 works", ["optim.ademamix_alpha_warmup_steps=0"]),
    "kernel of another optimizer": (["optim.name=muon", "kernels.adamw=triton"], "kernels.adamw (triton) must be auto or torch with optim.name muon",
                                    ["kernels.adamw=auto"]),
    "no average": (["optim.ema_decay=1"], "optim.ema_decay (1.0) must be above 0 and below 1", ["optim.ema_decay=0.999"]),
    "an average of the last": (["optim.ema_decay=0"], "0.999 works, or null, which keeps no average", ["optim.ema_decay=null"]),
    "no average to validate": (
        ["train.validate_ema=true"], "train.validate_ema (true) must be false without optim.ema_decay (null)", ["optim.ema_decay=0.999"],
    ),
    "beta": (["optim.adam_beta2=1.0"], "optim.adam_beta2 (1.0) must be at least 0 and below 1", ["optim.adam_beta2=0.95"]),
    "heads": (["model.num_attention_heads=12"], "model.hidden_size (64) must be a multiple of model.num_attention_heads (12)",
              ["model.hidden_size=72"]),
    "odd head": (["model.kv_channels=7"], "the head size (7", ["model.kv_channels=8"]),
    "groups": (["model.num_query_groups=3"], "model.num_attention_heads (8) must be a multiple of model.num_query_groups (3)",
               ["model.num_query_groups=2"]),
    "heads over ranks": (["parallel.tensor_model_parallel_size=3"], "model.num_attention_heads (8) must be a multiple of "
                         "parallel.tensor_model_parallel_size (3)", ["parallel.tensor_model_parallel_size=2"]),
    "groups over ranks": (["parallel.tensor_model_parallel_size=4", "model.hidden_size=96", "model.num_attention_heads=24", "model.num_query_groups=6"],
                          "model.num_query_groups (6) must be a multiple of parallel.tensor_model_parallel_size (4), or divide it",
                          ["parallel.tensor_model_parallel_size=2"]),
    "fewer groups than ranks, and no divisor": (
        ["parallel.tensor_model_parallel_size=4", "model.hidden_size=96", "model.num_attention_heads=24", "model.num_query_groups=3", "model.ffn_hidden_size=192"],
        "model.num_query_groups (3) must be a multiple of parallel.tensor_model_parallel_size (4), or divide it", ["parallel.tensor_model_parallel_size=3"],
    ),
    "heads over more ranks than groups": (["parallel.tensor_model_parallel_size=16", "model.num_query_groups=2"], "model.num_attention_heads (8) must be a multiple",
                                          ["parallel.tensor_model_parallel_size=8"]),
    "feed-forward over ranks": (["parallel.tensor_model_parallel_size=4", "model.ffn_hidden_size=178"], "model.ffn_hidden_size (178) must be a multiple of "
                                "parallel.tensor_model_parallel_size (4)", ["parallel.tensor_model_parallel_size=2"]),
    "sequence parallel alone": (["parallel.sequence_parallel=true"], "parallel.sequence_parallel (true) needs",
                                ["parallel.sequence_parallel=false"]),
    "sequence over context ranks": (
        ["parallel.context_parallel_size=3"], "data.seq_length (64) must be a multiple of 2 * parallel.context_parallel_size (3) = 6; 66 works",
        ["data.seq_length=66"],
    ),
    "sequence over context and tensor ranks": (
        ["parallel.context_parallel_size=4", "parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true", "data.seq_length=72"],
        "data.seq_length (72) must be a multiple of 2 * parallel.context_parallel_size (4) * parallel.tensor_model_parallel_size (2) with "
        "sequence_parallel = 16; 80 works", ["data.seq_length=80"],
    ),
    "no context ranks": (["parallel.context_parallel_size=0"], "parallel.context_parallel_size (0) must be above 0", ["parallel.context_parallel_size=1"]),
    "sequence over ranks": (["parallel.sequence_parallel=true", "parallel.tensor_model_parallel_size=2", "data.seq_length=63"],
                            "data.seq_length (63) must be a multiple", ["data.seq_length=64"]),
    "layers over stages": (["parallel.pipeline_model_parallel_size=3"], "model.num_layers (4) must be a multiple of "
                           "parallel.pipeline_model_parallel_size (3)", ["parallel.pipeline_layers=[1,2,1]"]),
    "layers over very many stages": (["parallel.pipeline_model_parallel_size=65", "model.num_layers=66"], "model.num_layers (66) must be a multiple",
                                     ["model.num_layers=130"]),
    "layers over virtual stages": (["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=4"],
                                   "model.num_layers (4) must be at least", ["model.num_layers=8"]),
    "fewer layers than stages that are listed": (
        ["parallel.pipeline_model_parallel_size=5", "parallel.pipeline_layers=[1,1,1,1]", "parallel.num_layers_in_last_pipeline_stage=1"],
        "model.num_layers (4) must be at least",
        ["parallel.pipeline_model_parallel_size=4", "parallel.pipeline_layers=null", "parallel.num_layers_in_last_pipeline_stage=null"],
    ),
    "too few stages listed": (["parallel.pipeline_model_parallel_size=2", "parallel.pipeline_layers=[4]"], "parallel.pipeline_layers ([4]) must have",
                              ["parallel.pipeline_layers=[2,2]"]),
    "stages listed of no pipeline": (["parallel.pipeline_layers=[1,3]"], "parallel.pipeline_layers ([1, 3]) must have", ["parallel.pipeline_layers=[4]"]),
    "a stage without layers": (["parallel.pipeline_model_parallel_size=2", "parallel.pipeline_layers=[0,4]"],
                               "parallel.pipeline_layers ([0, 4]) must have", ["parallel.pipeline_layers=[2,2]"]),
    "layers of the stages": (["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=2",
                              "parallel.pipeline_layers=[1,2,2,1]"], "numbers, each at least 1, that add up to model.num_layers (4)",
                             ["parallel.pipeline_layers=[1,1,1,1]"]),
    "a long number of layers": (["parallel.pipeline_layers=[99999999999999999999]"], "parallel.pipeline_layers[0] (99999999999999999999) must be a "
                                "64-bit integer", ["parallel.pipeline_layers=null"]),
    "listed stages and an end": (["parallel.pipeline_model_parallel_size=2", "parallel.pipeline_layers=[1,3]",
                                  "parallel.num_layers_in_first_pipeline_stage=1", "parallel.num_layers_in_last_pipeline_stage=3"],
                                 "parallel.num_layers_in_first_pipeline_stage (1) and parallel.num_layers_in_last_pipeline_stage (3) must be null beside",
                                 ["parallel.num_layers_in_first_pipeline_stage=null", "parallel.num_layers_in_last_pipeline_stage=null"]),
    "a last stage of no pipeline": (["parallel.num_layers_in_last_pipeline_stage=2"], "parallel.num_layers_in_last_pipeline_stage (2) must be null with",
                                    ["parallel.num_layers_in_last_pipeline_stage=null"]),
    "layers between the ends": (["parallel.pipeline_model_parallel_size=4", "model.num_layers=7", "parallel.num_layers_in_first_pipeline_stage=1",
                                 "parallel.num_layers_in_last_pipeline_stage=1"], "must be a multiple of parallel.virtual_pipeline_model_parallel_size (1)",
                                ["parallel.pipeline_layers=[1,3,2,1]", "parallel.num_layers_in_first_pipeline_stage=null",
                                 "parallel.num_layers_in_last_pipeline_stage=null"]),
    "no layers between the ends": (["parallel.pipeline_model_parallel_size=3", "parallel.num_layers_in_first_pipeline_stage=4"],
                                   "must be a multiple of", ["parallel.pipeline_layers=[1,2,1]", "parallel.num_layers_in_first_pipeline_stage=null"]),
    "virtual stages of an end": (["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=2", "model.num_layers=8",
                                  "parallel.num_layers_in_first_pipeline_stage=3"], "parallel.virtual_pipeline_model_parallel_size (2), and leave",
                                 ["parallel.pipeline_layers=[2,2,2,2]", "parallel.num_layers_in_first_pipeline_stage=null"]),
    "virtual without pipeline": (["parallel.virtual_pipeline_model_parallel_size=2"], "needs parallel.pipeline_model_parallel_size above 1",
                                 ["parallel.virtual_pipeline_model_parallel_size=1"]),
    "interleaved micro batches": (["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=2",
                                   "train.global_batch_size=6"], "a global batch of 6 gives 3; a global batch of 8 works",
                                  ["train.global_batch_size=8"]),
    "gather without overlap": (["parallel.overlap_param_gather=true"], "parallel.overlap_param_gather (true) needs",
                               ["parallel.overlap_grad_reduce=true", "parallel.use_distributed_optimizer=true"]),
    "batch": (["train.global_batch_size=9"], "train.global_batch_size (9) must be a multiple of train.micro_batch_size (2) * "
              "data_parallel_size (1) = 2; the next one is 10", ["train.global_batch_size=10"]),
    "batch over replicas": (["parallel.data_parallel_size=3"], "train.global_batch_size (8) must be a multiple of "
                            "train.micro_batch_size (2) * data_parallel_size (3) = 6; the next one is 12", ["train.global_batch_size=12"]),
    "ramp": (["train.batch_ramp={start: 2, increment: 4, samples: 10}"], "must reach it in whole increments (4); train.batch_ramp.increment=6 works",
             ["train.batch_ramp.increment=6"]),
    "ramp stage": (["train.batch_ramp={start: 2, increment: 3, samples: 10}"], "train.batch_ramp.increment (3) must be a multiple of "
                   "train.micro_batch_size (2) * data_parallel_size (1) = 2", ["train.batch_ramp.start=2", "train.batch_ramp.increment=6"]),
    "ramp start": (["train.batch_ramp={start: 3, increment: 5, samples: 10}"], "train.batch_ramp.start (3) must be a multiple of "
                   "train.micro_batch_size (2) * data_parallel_size (1) = 2", ["train.batch_ramp.start=2", "train.batch_ramp.increment=6"]),
    "ramp without room": (["train.batch_ramp={start: 3, increment: 5, samples: 10}", "train.micro_batch_size=8"],
                          "train.batch_ramp.start (3) must be a multiple of train.micro_batch_size (8)", ["train.batch_ramp=null"]),
    "ramp of nothing": (["train.batch_ramp={start: 2, increment: 2, samples: 0}"], "train.batch_ramp.samples (0) must be above 0",
                        ["train.batch_ramp.samples=1"]),
    "rates": (["optim.min_lr=1"], "optim.min_lr (1.0) must not be above optim.lr (0.001); 0.0001 works", ["optim.min_lr=0.0001"]),
    "warm-up": (["optim.lr_warmup_samples=81"], "optim.lr_warmup_samples (81) must not be above the 80 samples of the schedule",
                ["optim.lr_warmup_samples=8"]),
    "WSD without its decay": (["optim.lr_decay_style=WSD"], "optim.lr_wsd_decay_samples (null) must be stated with optim.lr_decay_style WSD",
                              ["optim.lr_wsd_decay_samples=8"]),
    "WSD's decay without WSD": (["optim.lr_wsd_decay_samples=8"], "optim.lr_wsd_decay_samples (8) must be null unless optim.lr_decay_style is WSD or constant, and it is cosine",
                                ["optim.lr_wsd_decay_samples=null"]),
    "WSD's decay too long": (["optim.lr_decay_style=WSD", "optim.lr_wsd_decay_samples=81"], "optim.lr_wsd_decay_samples (81) must be above 0",
                             ["optim.lr_wsd_decay_samples=40"]),
    "no decay of no samples": (["optim.lr_decay_style=constant", "optim.lr_wsd_decay_samples=0"], "optim.lr_wsd_decay_samples (0) must be above 0",
                               ["optim.lr_wsd_decay_samples=40"]),
    "a decay's shape without a decay": (["optim.lr_wsd_decay_style=minus_sqrt"], "optim.lr_wsd_decay_style (minus_sqrt) must be linear, its default, unless",
                                        ["optim.lr_wsd_decay_style=linear"]),
    "a decay's start without a decay": (["optim.lr_wsd_decay_start_sample=40"], "optim.lr_wsd_decay_start_sample (40) must be null unless optim.lr_decay_style is WSD or constant",
                                        ["optim.lr_wsd_decay_start_sample=null"]),
    "a decay's start without its length": (["optim.lr_decay_style=constant", "optim.lr_wsd_decay_start_sample=40"], "needs optim.lr_wsd_decay_samples (null)",
                                           ["optim.lr_wsd_decay_samples=4"]),
    "a decay in the warm-up": (["optim.lr_decay_style=constant", "optim.lr_wsd_decay_samples=8", "optim.lr_warmup_samples=40", "optim.lr_wsd_decay_start_sample=39"],
                               "must not be below optim.lr_warmup_samples (40)", ["optim.lr_wsd_decay_start_sample=40"]),
    "two ends of a decay": (["optim.lr_decay_style=WSD", "optim.lr_wsd_decay_samples=8", "optim.lr_wsd_decay_start_sample=40", "optim.lr_decay_samples=80"],
                            "at 48, and optim.lr_decay_samples (80) must say the same", ["optim.lr_decay_samples=null"]),
    "stage at the start": (["train.batch_stages=[{start_sample: 0, global_batch_size: 16}]"], "train.batch_stages[0].start_sample (0) must be above 0",
                           ["train.batch_stages=[{global_batch_size: 16, start_sample: 1}]"]),
    "stages out of order": (["train.batch_stages=[{start_sample: 8, global_batch_size: 16}, {start_sample: 8, global_batch_size: 32}]"],
                            "train.batch_stages[1].start_sample (8) must be above 8, where the batch before it starts",
                            ["train.batch_stages=[{start_sample: 8, global_batch_size: 16}, {global_batch_size: 32, start_sample: 9}]"]),
    "stage within the ramp": (["train.batch_ramp={start: 2, increment: 2, samples: 40}", "train.batch_stages=[{start_sample: 40, global_batch_size: 16}]"],
                              "must be above 40, where train.batch_ramp ends", ["train.batch_stages=[{global_batch_size: 16, start_sample: 41}]"]),
    "batch of a stage": (["train.batch_stages=[{start_sample: 8, global_batch_size: 15}]"], "train.batch_stages[0].global_batch_size (15) must be above 0",
                         ["train.batch_stages=[{start_sample: 8, global_batch_size: 16}]"]),
    "no batch of a stage": (["train.batch_stages=[{start_sample: 8, global_batch_size: -4}]"], "train.batch_stages[0].global_batch_size (-4) must be above 0",
                            ["train.batch_stages=[{start_sample: 8, global_batch_size: 2}]"]),
    "interleaved micro batches of a stage": (["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=2",
                                              "train.batch_stages=[{start_sample: 8, global_batch_size: 6}]"], "and a multiple of 4",
                                             ["train.batch_stages=[{start_sample: 8, global_batch_size: 8}]"]),
    "no source": (["data.train=[]"], "data.train (empty) must name at least one source", ["data.train=[{prefix: shards/train}]"]),
    "infinite rate": (["optim.lr=.inf"], "optim.lr (inf) must be a finite number; 0.001 works", ["optim.lr=0.001"]),
    "no number": (["optim.weight_decay=.nan"], "optim.weight_decay (nan) must be a finite number; 0.1 works", ["optim.weight_decay=0.1"]),
    "no peak": (["log.peak_tflops_per_gpu=.inf"], "log.peak_tflops_per_gpu (inf) must be a finite number; null works",
                ["log.peak_tflops_per_gpu=null"]),
    "infinite weight": (["data.train=[{prefix: a, weight: .inf}]"], "data.train[0].weight (inf) must be above 0 and finite",
                        ["data.train=[{prefix: a, weight: 1.0}]"]),
    "two shares": (["data.train=[{prefix: a, weight: 2, epochs: 3}]"], "data.train[0] has both weight (2.0) and epochs (3.0)",
                   ["data.train=[{prefix: a, epochs: 3, weight: null}]"]),
    "shares of two kinds": (["data.train=[{prefix: a, epochs: 1.5}, {prefix: b, weight: 2}]"], "data.train[1].epochs (None, with weight 2.0) must be stated",
                            ["data.train=[{prefix: a, epochs: 1.5}, {prefix: b, epochs: 1.0}]"]),
    "no epochs": (["data.train=[{prefix: a, epochs: 0}]"], "data.train[0].epochs (0.0) must be above 0", ["data.train=[{prefix: a, epochs: 1.0}]"]),
    "share of a phase": (["data.phases=[{start_sample: 8, train: [{prefix: a, weight: -1}]}]"], "data.phases[0].train[0].weight (-1.0) must be above 0",
                         ["data.phases=[{start_sample: 8, train: [{prefix: a, weight: 1.0}]}]"]),
    "empty phase": (["data.phases=[{start_sample: 8}]"], "data.phases[0].train (empty) must name", ["data.phases=[{start_sample: 8, train: [{prefix: shards/train}]}]"]),
    "phase at the start": (["data.phases=[{start_sample: 0, train: [{prefix: a}]}]"], "data.phases[0].start_sample (0) must be above 0",
                           ["data.phases=[{train: [{prefix: a}], start_sample: 1}]"]),
    "phases out of order": (["data.phases=[{start_sample: 8, train: [{prefix: a}]}, {start_sample: 8, train: [{prefix: b}]}]"],
                            "data.phases[1].start_sample (8) must be above 8",
                            ["data.phases=[{start_sample: 8, train: [{prefix: a}]}, {train: [{prefix: b}], start_sample: 9}]"]),
    "validation share": (["data.validation=[{prefix: a, epochs: 2}]"], "data.validation[0] has a share (weight None, epochs 2.0)",
                       ["data.validation=[{prefix: a, epochs: null}]"]),
    "all kept for validation": (["data.validation_fraction=1"], "data.validation_fraction (1.0) must be at least 0 and below 1; 0.001 works",
                     ["data.validation_fraction=0.001"]),
    "weight": (["data.train=[{prefix: a, weight: 0}]"], "data.train[0].weight (0.0) must be above 0", ["data.train=[{prefix: a, weight: 1.0}]"]),
}  # fmt: skip


@cache
def valid_run() -> RunConfig:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(CONFIG)
        return load_run(path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(("broken", "message", "works"), CASES.values(), ids=list(CASES))
def test_a_broken_rule_names_what_works_and_that_works(
    broken: list[str], message: str, works: list[str], config: Path
) -> None:
    with pytest.raises(ValueError) as caught:
        load_run(config, broken)
    said = str(caught.value)
    assert message in said
    for override in works:
        value = re.findall(r"[\w./-]+", override.partition("=")[2])[-1]
        assert re.search(rf"(?<![\w.]){re.escape(value)}(?![\w])", said), (
            f"{override} works, and the message must say so: {said}"
        )
    load_run(config, [*broken, *works])


NUMBERS = [
    f"{room.name}.{field.name}"
    for room in fields(RunConfig)
    if is_dataclass(section := get_type_hints(RunConfig)[room.name])
    for field in fields(section)
    if {int, float} & {(hint := get_type_hints(section)[field.name]), *get_args(hint)} and field.name != "seed"
]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_of_a_run_may_be_negative(name: str, config: Path) -> None:
    assert len(NUMBERS) > 30, "the list is read from the schema"
    with pytest.raises(ValueError) as caught:
        load_run(config, [f"{name}=-1"])
    assert f"{name} (-1" in str(caught.value)


@pytest.mark.parametrize("name", ["start", "increment", "samples"])
def test_no_number_of_a_ramp_may_be_negative(name: str, config: Path) -> None:
    ramp = {"start": 2, "increment": 2, "samples": 10, name: -1}
    with pytest.raises(ValueError, match=rf"train.batch_ramp.{name} \(-1\) must be above 0; 1 works"):
        load_run(config, [f"train.batch_ramp.{key}={value}" for key, value in ramp.items()])


@given(
    start=st.integers(1, 12),
    increment=st.integers(1, 12),
    full=st.integers(1, 24),
    micro=st.integers(1, 4),
    replicas=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_ramp_is_accepted_exactly_if_every_batch_on_it_divides(
    start: int, increment: int, full: int, micro: int, replicas: int
) -> None:
    run = valid_run()
    ramp = BatchRampConfig(start=start, increment=increment, samples=100)
    train = replace(run.train, batch_ramp=ramp, global_batch_size=full, micro_batch_size=micro)
    run = replace(run, train=train, parallel=replace(run.parallel, data_parallel_size=replicas))
    batches = range(start, full + 1, increment)
    fits = start < full and batches[-1] == full and all(batch % (micro * replicas) == 0 for batch in batches)
    if fits:
        check(run)
    else:
        with pytest.raises(ValueError, match=r"train\.(batch_ramp|global_batch_size)"):
            check(run)


@pytest.mark.parametrize(
    ("key", "value", "message", "works"),
    [
        ("window_steps", 1, r"train.spikes.window_steps \(1\) must be from 2", ["window_steps=128", "min_steps=64"]),
        ("window_steps", 10_001, r"train.spikes.window_steps \(10001\) must be .* to 10000", ["window_steps=128"]),
        ("window_steps", 50, r"train.spikes.min_steps \(64\) must be from 2 to .* \(50\).*min_steps=25 works", ["min_steps=25"]),
        ("min_steps", 1, r"train.spikes.min_steps \(1\) must be from 2 to .*min_steps=64 works", ["min_steps=64"]),
        ("z_score", 0, r"train.spikes.z_score \(0.0\) must be above 0 and finite; 6.0 works", ["z_score=6.0"]),
        ("z_score", ".nan", r"train.spikes.z_score \(nan\) must be above 0 and finite; 6.0 works", ["z_score=6.0"]),
        ("max_skipped_spikes", -1, r"max_skipped_spikes \(-1\) must not be negative; 0 skips none", ["max_skipped_spikes=0"]),
    ],
)  # fmt: skip
def test_spikes_that_cannot_be_found_are_refused(key: str, value, message: str, works: list[str], config: Path) -> None:
    broken = [f"train.spikes.{key}={value}"]
    with pytest.raises(ValueError, match=message):
        load_run(config, broken)
    load_run(config, broken + [f"train.spikes.{override}" for override in works])


def test_spikes_are_looked_for_unless_that_is_turned_off(config: Path) -> None:
    spikes = load_run(config).train.spikes
    assert spikes is not None and not spikes.skip
    assert load_run(config, ["train.spikes=null"]).train.spikes is None


def test_ranks_left_over_are_refused_with_numbers_that_fit(config: Path) -> None:
    run = load_run(config, ["parallel.tensor_model_parallel_size=2"])
    check_ranks(run, 4)
    with pytest.raises(ValueError, match=r"5 ranks cannot hold whole replicas of .* = 2 ranks; start 4 or 6 ranks"):
        check_ranks(run, 5)


def test_replicas_that_were_promised_and_are_not_there_are_refused(config: Path) -> None:
    run = load_run(config, ["parallel.data_parallel_size=2"])
    check_ranks(run, 2)
    with pytest.raises(
        ValueError, match=r"data_parallel_size \(2\) needs 2 ranks and 4 are running; set .*=4, or null"
    ):
        check_ranks(run, 4)


def test_a_batch_that_the_ranks_found_cannot_share_is_refused(config: Path) -> None:
    run = load_run(config)
    check_ranks(run, 4)
    with pytest.raises(
        ValueError, match=r"train.global_batch_size \(8\) .* data_parallel_size \(3\) = 6; the next one is 12"
    ):
        check_ranks(run, 3)


def checkpoint_at(folder: Path, step: int, consumed_samples: int) -> None:
    """As much of a checkpoint as says where the run stands."""
    checkpoint = checkpoints_dir(folder) / step_name(step)
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE).write_text(json.dumps({"step": step, "consumed_samples": consumed_samples}))
    (checkpoint / COMPLETE).write_text("")


def test_a_schedule_that_ends_with_the_run_is_measured_from_where_the_run_stands(config: Path, tmp_path: Path) -> None:
    smaller = [f"run_dir={tmp_path}/run", "train.global_batch_size=2", "optim.lr_warmup_samples=32"]
    with pytest.raises(ValueError, match=r"optim.lr_warmup_samples \(32\) must not be above the 20 samples"):
        load_run(config, smaller)
    checkpoint_at(tmp_path / "run", 8, 64)
    load_run(config, smaller)  # 64 + 2 * 2 samples
    saved = checkpoints_dir(tmp_path / "run") / step_name(8) / "config.yaml"
    saved.write_text(config.read_text())
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / saved.relative_to(tmp_path / "run")
    load_run(moved, smaller)
    with pytest.raises(UserError, match=r"optim.lr_warmup_samples \(32\) must not be above the 20 samples"):
        load_run_to_train(moved, smaller)  # a new run


@pytest.mark.parametrize(
    ("end", "at", "where"),
    [
        (64, (8, 64), "it resumes after step 8 at sample 64"),
        (40, (6, 48), "it resumes after step 6 at sample 48"),
        (72, (0, 0), "its last step starts at sample 72"),
    ],
)
def test_steps_at_a_rate_of_zero_are_refused(
    end: int, at: tuple[int, int], where: str, config: Path, tmp_path: Path
) -> None:
    overrides = [f"run_dir={tmp_path}/run", f"optim.lr_decay_samples={end}"]
    if at[0]:
        checkpoint_at(tmp_path / "run", *at)
    message = rf"optim.lr_decay_samples \({end}\) must not end .* optim.min_lr \(0\) trains nothing, and {where}; "
    with pytest.raises(UserError, match=message) as refused:
        load_run_to_train(config, overrides)
    load_run(config, overrides)  # what was trained so can be exported
    for works in (["optim.lr_decay_samples=null"], ["optim.min_lr=0.0001"]):
        assert works[0] in str(refused.value)
        load_run_to_train(config, overrides + works)


@pytest.mark.parametrize(
    ("overrides", "at"),
    [
        (["optim.lr_decay_samples=73"], (0, 0)),
        (["optim.lr_decay_samples=40", "optim.lr_decay_style=constant"], (6, 48)),
        (["optim.lr_decay_samples=40", "optim.min_lr=1e-5"], (6, 48)),
        (["optim.lr_decay_samples=40"], (10, 80)),
        (["optim.lr_decay_samples=80"], (9, 72)),
        (["train.global_batch_size=4"], (8, 64)),
    ],
    ids=["last step", "no decay", "an end above 0", "finished", "one step left", "the end of the run"],
)
def test_a_rate_above_zero_is_never_refused(
    overrides: list[str], at: tuple[int, int], config: Path, tmp_path: Path
) -> None:
    if at[0]:
        checkpoint_at(tmp_path / "run", *at)
    load_run_to_train(config, [f"run_dir={tmp_path}/run", *overrides])
