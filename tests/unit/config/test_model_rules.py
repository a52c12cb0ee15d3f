"""Rules of a model's fields: each refusal names a value that works, and it does."""

import dataclasses
from pathlib import Path

import pytest

from pretrain.config.load import load_run
from pretrain.config.model_rules import _share, model_problem
from pretrain.config.schema import ModelConfig
from pretrain.model.families import family_of
from tests.unit.config.test_config_advice import advice, refusal
from tests.unit.config.test_rules import CONFIG

LLAMA3 = ("model.rotary_scaling=llama3", "model.rotary_scaling_original_length=8192")
YARN = ("model.rotary_scaling=yarn", "model.rotary_scaling_original_length=8192")
WINDOWS = ("model.sliding_window=16", "model.full_attention_layer_interval=2")
REFUSED = {
    "a factor without a scaling": (
        ("model.rotary_scaling_factor=4",), r"rotary_scaling_factor \(4.0\) needs a model.rotary_scaling, which is none",
        ("model.rotary_scaling_factor=4", "model.rotary_scaling=linear"),
    ),
    "a factor below 1": (
        ("model.rotary_scaling=linear", "model.rotary_scaling_factor=0.5"), r"\(0.5\) must be from 1 to 1,000,000.*; 8.0 works",
        ("model.rotary_scaling=linear", "model.rotary_scaling_factor=8.0"),
    ),
    "a length that says nothing": (
        ("model.rotary_scaling_original_length=8192",), r"rotary_scaling \(none\) must be llama3 .* \(8192\)", (),
    ),
    "llama3 without a length": (
        LLAMA3[:1], r"original_length \(null\) must be stated .* 8192 works", LLAMA3,
    ),
    "turns in the wrong order": (
        (*LLAMA3, "model.rotary_scaling_low_freq_factor=4"), r"high_freq_factor \(4.0\) must be above .* \(4.0\)",
        (*LLAMA3, "model.rotary_scaling_low_freq_factor=1.0", "model.rotary_scaling_high_freq_factor=4.0"),
    ),
    "yarn without a length": (
        YARN[:1], r"original_length \(null\) must be stated where model.rotary_scaling is yarn; 8192 works", YARN,
    ),
    "a kind that is not known": (
        ("model.rotary_scaling=ntk",), r"model.rotary_scaling.*ntk", ("model.rotary_scaling=none",),
    ),
}  # fmt: skip

DOES_NOT_GO_TOGETHER: dict[str, tuple[tuple[str, ...], str, str]] = {
    # what is refused: (the overrides, the key that the message is about, what it says)
    "an interval without a window": (
        ("model.full_attention_layer_interval=2",), "model.full_attention_layer_interval",
        "(2) needs a model.sliding_window, which is null; sliding_window=4096 works",
    ),
    "an interval of 1 without a window": (
        ("model.full_attention_layer_interval=1",), "model.full_attention_layer_interval", "(1) needs a model.sliding_window",
    ),
    "an interval above the layers without a window, and a base": (
        ("model.full_attention_layer_interval=9", "model.local_rotary_base=5000"), "model.full_attention_layer_interval",
        "(9) needs a model.sliding_window, which is null; model.full_attention_layer_interval=null and "
        "model.local_rotary_base=null work",
    ),
    "a window in no layer": (
        ("model.sliding_window=16", "model.full_attention_layer_interval=1", "model.local_rotary_base=5000"),
        "model.full_attention_layer_interval", "(1) leaves no layer with model.sliding_window (16); 2 works",
    ),
    "a window in no layer of one": (
        ("model.sliding_window=16", "model.full_attention_layer_interval=1", "model.num_layers=1"),
        "model.full_attention_layer_interval", "(1) leaves no layer with model.sliding_window (16)",
    ),
    "a window in every layer by an interval": (
        ("model.sliding_window=16", "model.full_attention_layer_interval=5", "model.local_rotary_base=5000"),
        "model.full_attention_layer_interval", "(5) must be at most model.num_layers (4), since no layer is without a window there; 4 works",
    ),
    "a window in one layer by an interval": (
        ("model.sliding_window=16", "model.full_attention_layer_interval=2", "model.local_rotary_base=5000", "model.num_layers=1"),
        "model.full_attention_layer_interval", "(2) must be at most model.num_layers (1)",
    ),
    "a local base of no layer": (
        ("model.local_rotary_base=5000",), "model.local_rotary_base", "(5000.0) needs a model.full_attention_layer_interval, which is null",
    ),
    "a local base of all layers": (
        ("model.local_rotary_base=5000", "model.sliding_window=16"), "model.local_rotary_base", "needs a model.full_attention_layer_interval",
    ),
    "a local base below 1": (
        (*WINDOWS, "model.local_rotary_base=0.5"), "model.local_rotary_base", "(0.5) must be at least 1",
    ),
    "a local base of layers without positions": (
        (*WINDOWS, "model.local_rotary_base=5000", "model.no_rope_layer_interval=1"), "model.local_rotary_base",
        "(5000.0) is of no effect: of the layers that it is for, model.no_rope_layer_interval (1) leaves none",
    ),
    "a share of heads that do not turn": (
        ("model.rotary_percent=0.5", "model.no_rope_layer_interval=1"), "model.rotary_percent", "(0.5) is of no effect",
    ),
    "yarn of heads that do not turn": (
        (*YARN, "model.no_rope_layer_interval=1"), "model.rotary_scaling", "(yarn) is of no effect",
    ),
    "a scaling of full layers that do not turn": (
        (*WINDOWS, *LLAMA3, "model.no_rope_layer_interval=2"), "model.rotary_scaling", "(llama3) is of no effect",
    ),
    "no share": (("model.rotary_percent=0",), "model.rotary_percent", "(0.0) must be above 0 and at most 1"),
    "no share of the smallest head": (
        ("model.rotary_percent=0", "model.kv_channels=2"), "model.rotary_percent", "(0.0) must be above 0 and at most 1",
    ),
    "more than a head": (("model.rotary_percent=1.5",), "model.rotary_percent", "(1.5) must be above 0 and at most 1"),
    "half of a pair": (
        ("model.rotary_percent=0.4",), "model.rotary_percent", "(0.4) must give an even number of the head's 8 channels, and gives 3; 0.25",
    ),
    "less than a pair": (("model.rotary_percent=0.1",), "model.rotary_percent", "and gives 0; 0.25 works"),
    "a share whose product is rounded": (
        ("model.rotary_percent=0.709", "model.kv_channels=44"), "model.rotary_percent", "of the head's 44 channels, and gives 31",
    ),
    "yarn of a part": ((*YARN, "model.rotary_percent=0.5"), "model.rotary_percent", "(0.5) must be 1 where model.rotary_scaling is yarn"),
    "yarn of a base of 1": ((*YARN, "model.rotary_base=1"), "model.rotary_base", "(1.0) must be at least 2 where model.rotary_scaling is yarn"),
    "turns of yarn in the wrong order": (
        (*YARN, "model.rotary_scaling_beta_fast=1"), "model.rotary_scaling_beta_fast", "(1.0) must be above model.rotary_scaling_beta_slow (1.0)",
    ),
    "turns of another scaling": (
        (*LLAMA3, "model.rotary_scaling_beta_fast=16"), "model.rotary_scaling_beta_fast",
        "model.rotary_scaling (llama3) must be yarn where model.rotary_scaling_beta_fast (16.0) is stated",
    ),
    "a factor of scores without yarn": (
        ("model.rotary_scaling_attention_factor=1.2",), "model.rotary_scaling_attention_factor",
        "model.rotary_scaling (none) must be yarn where model.rotary_scaling_attention_factor (1.2) is stated",
    ),
    "a factor of scores without end": (
        (*YARN, "model.rotary_scaling_attention_factor=1e20"), "model.rotary_scaling_attention_factor", "(1e+20) must be from 1e-06 to 1,000,000",
    ),
    "a factor of scores near 0": (
        (*YARN, "model.rotary_scaling_attention_factor=1e-30"), "model.rotary_scaling_attention_factor", "(1e-30) must be from 1e-06",
    ),
    "a small factor without a scaling": (("model.rotary_scaling_factor=0.5",), "model.rotary_scaling_factor", "(0.5) needs a model.rotary_scaling"),
    "a scope of no norm": (("model.qk_layernorm_scope=full",), "model.qk_layernorm_scope", "(full) needs model.qk_layernorm, which is false"),
    "a divisor of scores near 0": (
        ("model.query_pre_attention_scalar=1e-20",), "model.query_pre_attention_scalar", "(1e-20) must be at least 1e-06",
    ),
    "a cap of scores near 0": (("model.attention_logit_softcap=1e-40",), "model.attention_logit_softcap", "(1e-40) must be at least 1e-06"),
    "a cap of logits near 0": (("model.final_logit_softcap=1e-40",), "model.final_logit_softcap", "(1e-40) must be at least 1e-06"),
    "a cap of 0": (("model.final_logit_softcap=0",), "model.final_logit_softcap", "(0.0) must be above 0 and finite; null works"),
    "an endless cap": (("model.final_logit_softcap=.inf",), "model.final_logit_softcap", "(inf) must be a finite number; null works"),
    "a window of 0": (("model.sliding_window=0",), "model.sliding_window", "(0) must be above 0 and finite; null works"),
    "a z-loss above the loss": (("train.z_loss_weight=1e5",), "train.z_loss_weight", "(100000.0) must be at most 1; 0.0 works"),
    "a z-loss without end": (("train.z_loss_weight=.inf",), "train.z_loss_weight", "(inf) must be a finite number; 0.0 works"),
    "a z-loss that is no number": (("train.z_loss_weight=.nan",), "train.z_loss_weight", "(nan) must be a finite number; 0.0 works"),
    "a z-loss below 0": (("train.z_loss_weight=-1e-5",), "train.z_loss_weight", "(-1e-05) must be finite and not negative; 0 works"),
}  # fmt: skip
GOES_TOGETHER: dict[str, tuple[str, ...]] = {
    "a window above the sequence": ("model.sliding_window=4096",),
    "a window of one position": ("model.sliding_window=1",),
    "full attention in the last layer alone": ("model.sliding_window=16", "model.full_attention_layer_interval=4"),
    "rotary positions where the window is, none where it is not": (*WINDOWS, "model.no_rope_layer_interval=2", "model.local_rotary_base=5000"),
    "a window, documents apart": (*WINDOWS, "data.document_mask=true"),
    "a scaling of the layers without a window": (*WINDOWS, *YARN, "model.rotary_scaling_factor=8"),
    "a scaling of layers that all have a window": (*YARN, "model.sliding_window=16"),
    "a cap and a kernel of either kind": ("model.attention_logit_softcap=50", "model.attention_backend=sdpa"),
    "a norm of all heads on two ranks": (
        "model.qk_layernorm=true", "model.qk_layernorm_scope=full", "parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true",
    ),
    "norms with a bias and without": ("model.normalization=LayerNorm", "model.qk_layernorm=true", "model.norm_placement=both"),
    "a z-loss with a cap": ("train.z_loss_weight=1e-4", "model.final_logit_softcap=30"),
    "scalings of earlier runs without rotary positions": (*LLAMA3, "model.no_rope_layer_interval=1"),
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_scaling_that_is_none_is_refused_and_what_is_recommended_works(name: str, config: Path) -> None:
    overrides, message, works = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        load_run(config, list(overrides))
    load_run(config, list(works))


@pytest.mark.parametrize("name", DOES_NOT_GO_TOGETHER)
def test_fields_that_do_not_go_together_are_refused_and_what_the_message_says_works(name: str, config: Path) -> None:
    overrides, key, message = DOES_NOT_GO_TOGETHER[name]
    said = refusal(config, [*overrides])
    assert said is not None and key in said and message in said, said
    works = advice(said, key)
    assert refusal(config, [*overrides, *works]) is None, (said, works)


@pytest.mark.parametrize("name", GOES_TOGETHER)
def test_fields_that_go_together_are_taken(name: str, config: Path) -> None:
    assert refusal(config, [*GOES_TOGETHER[name]]) is None


def test_a_recommended_share_of_a_head_gives_the_pairs_though_products_are_rounded() -> None:
    shares = [
        (_share(channels, head), head, channels) for head in range(2, 1025, 2) for channels in range(2, head + 1, 2)
    ]
    assert [of for of in shares if int(of[1] * of[0]) != of[2] or not 0 < of[0] <= 1] == []


def test_a_model_of_another_file_is_judged_by_the_same_rules() -> None:
    model = ModelConfig(
        num_layers=4, hidden_size=8, ffn_hidden_size=8, num_attention_heads=2, num_query_groups=1, vocab_size=8
    )
    assert model_problem(model) is None
    problem = model_problem(dataclasses.replace(model, sliding_window=4, full_attention_layer_interval=6))
    assert (
        problem is not None
        and "model.full_attention_layer_interval (6) must be at most model.num_layers (4)" in problem
    )


def test_a_model_of_no_class_is_told_what_keeps_it_out_of_the_nearest() -> None:
    model = ModelConfig(
        num_layers=4, hidden_size=8, ffn_hidden_size=8, num_attention_heads=2, num_query_groups=1, vocab_size=8,
        qk_layernorm=True,
    )  # fmt: skip
    assert family_of(model).title == "Qwen3"
    with pytest.raises(
        ValueError,
        match=r"no class of transformers computes this model: Qwen3ForCausalLM comes nearest, and differs in "
        r"model.no_rope_layer_interval \(2; there null\); it trains here, and with those values it can be exported",
    ):
        family_of(dataclasses.replace(model, no_rope_layer_interval=2))
    assert family_of(dataclasses.replace(model, no_rope_layer_interval=2, qk_layernorm=False)).title == "SmolLM3"
