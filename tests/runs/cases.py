"""Runs as data: layouts that must train the same model on the same batches, and the fault that each test plants."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """One way to lay a run out, and how to break it."""

    name: str
    overrides: tuple[str, ...]
    fault: str
    """Name of a function in tests/dist/faults.py."""


TP2 = ("parallel.tensor_model_parallel_size=2",)
PP2 = ("parallel.pipeline_model_parallel_size=2",)
PP4 = ("parallel.pipeline_model_parallel_size=4",)
DP2 = ("parallel.data_parallel_size=2",)
SP = ("parallel.sequence_parallel=true",)
PP3 = ("parallel.pipeline_model_parallel_size=3",)
VP2 = ("parallel.virtual_pipeline_model_parallel_size=2",)
NO_DISTRIBUTED_OPTIMIZER = ("parallel.use_distributed_optimizer=false",)
ONE_AND_THREE = ("parallel.pipeline_layers=[1,3]",)
LIGHT_ENDS = ("parallel.num_layers_in_first_pipeline_stage=1", "parallel.num_layers_in_last_pipeline_stage=1")
OVERLAP = ("parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true")

LAYOUTS = (
    Layout("tp2", TP2, "half_the_heads_dead_on_one_rank"),
    Layout("tp2-sp", TP2 + SP, "norm_gradient_not_reduced"),
    Layout("pp2", PP2, "one_micro_batch_dropped"),
    Layout("pp2-vp2", PP2 + VP2, "one_micro_batch_dropped"),
    Layout("dp2", DP2, "one_micro_batch_dropped"),
    Layout("dp2-replicated-optimizer", DP2 + NO_DISTRIBUTED_OPTIMIZER, "one_micro_batch_dropped"),
    Layout("dp2-overlap", DP2 + OVERLAP, "one_micro_batch_dropped"),
    Layout("tp2-pp2", TP2 + PP2, "half_the_heads_dead_on_one_rank"),
    Layout("tp2-sp-pp2-vp2", TP2 + SP + PP2 + VP2, "norm_gradient_not_reduced"),
    Layout("pp2-vp2-dp2-overlap", PP2 + VP2 + DP2 + OVERLAP, "one_micro_batch_dropped"),
    Layout("tp2-pp2-dp2", TP2 + PP2 + DP2, "one_micro_batch_dropped"),
    Layout("full-recompute", (*TP2, *SP, "train.recompute=full"), "norm_gradient_not_reduced"),
    Layout("selective-recompute", ("train.recompute=selective",), "one_micro_batch_dropped"),
)

TIED_LAYOUTS = (
    Layout("tied-tp2", TP2, "half_the_heads_dead_on_one_rank"),
    Layout("tied-pp2", PP2, "tied_copies_not_reduced"),
    Layout("tied-tp2-pp2-vp2", TP2 + PP2 + VP2, "tied_copies_not_reduced"),
)
DOCUMENT_LAYOUTS = (
    Layout("tp2", TP2, "documents_ignored_on_one_rank"),
    Layout("tp2-sp", TP2 + SP, "documents_begin_one_token_late_on_one_rank"),
    Layout("pp2", PP2, "documents_ignored_on_one_rank"),
    Layout("pp4", PP4, "documents_ignored_in_the_middle"),
    Layout("pp2-vp2", PP2 + VP2, "documents_ignored_on_one_rank"),
    Layout("dp2", DP2, "documents_begin_one_token_late_on_one_rank"),
    Layout("dp2-replicated-optimizer", DP2 + NO_DISTRIBUTED_OPTIMIZER, "padding_counts"),
    Layout("dp2-overlap", DP2 + OVERLAP, "documents_ignored_on_one_rank"),
    Layout("tp2-pp2", TP2 + PP2, "documents_begin_one_token_late_on_one_rank"),
    Layout("tp2-sp-pp2-vp2", TP2 + SP + PP2 + VP2, "documents_ignored_on_one_rank"),
    Layout("pp2-vp2-dp2-overlap", PP2 + VP2 + DP2 + OVERLAP, "documents_begin_one_token_late_on_one_rank"),
    Layout("tp2-pp2-dp2", TP2 + PP2 + DP2, "documents_ignored_on_one_rank"),
    Layout("full-recompute", (*TP2, *SP, "train.recompute=full"), "documents_ignored_on_one_rank"),
    Layout("full-recompute-pp4", (*PP4, "train.recompute=full"), "documents_ignored_in_the_middle"),
    Layout("selective-recompute", ("train.recompute=selective",), "documents_ignored_on_one_rank"),
    Layout("selective-recompute-pp2-vp2", (*PP2, *VP2, "train.recompute=selective"), "documents_ignored_on_one_rank"),
    Layout("the-definition-of-attention", ("model.attention_backend=reference",), "documents_ignored_on_one_rank"),
)
"""Layouts of runs with data.document_mask; pp4 is the one with stages that read no tokens."""

FULL_RECOMPUTE = ("train.recompute=full",)


@dataclass(frozen=True)
class FamilyRun:
    """A small model of one family, with faults in what is its own, and the layouts that show them."""

    architecture: str
    overrides: tuple[str, ...]
    faults: dict[str, str]
    """Functions in tests/dist/family_faults.py, and the layouts that show them, of FAMILY_LAYOUTS."""
    export_fault: tuple[object, ...]
    """Name of a function in tests/dist/export_faults.py, and its arguments."""
    on_the_card: str
    """What a model card says of it."""
    has_a_tokenizer_of_its_own: bool = False
    """Whether transformers reads every folder of the class with one tokenizer, whatever files are there."""


FAMILY_LAYOUTS = {
    "tp2-sp": TP2 + SP,
    "pp2-vp2": PP2 + VP2,
    "dp2": DP2,
    "tp2-pp2-full-recompute": TP2 + PP2 + FULL_RECOMPUTE,
}
LLAMA3_SCALING = (
    "model.rotary_scaling=llama3", "model.rotary_scaling_factor=8", "model.rotary_scaling_original_length=32",
)  # fmt: skip
YARN = ("model.rotary_scaling=yarn", "model.rotary_scaling_factor=8", "model.rotary_scaling_original_length=32")
WINDOWS = ("model.sliding_window=16", "model.full_attention_layer_interval=2")
GEMMA = (
    "model.activation=geglu", "model.embedding_scale=sqrt_hidden_size", "model.layernorm_zero_centered_gamma=true",
    "model.norm_placement=both", "model.kv_channels=16", "model.share_embeddings_and_output_weights=true", *WINDOWS,
)  # fmt: skip
FAMILY_RUNS = {
    "llama-3.1": FamilyRun(
        "LlamaForCausalLM", (*LLAMA3_SCALING, "train.z_loss_weight=0.01"),
        {
            "rotary_frequencies_not_scaled_on_one_rank": "pp2-vp2", "z_loss_of_one_rank_alone": "dp2",
            "z_loss_of_its_own_columns": "tp2-sp",
        },
        ("rotary_factor_of", 7.5), "rotary, theta 10000, scaled by 8 (llama3); trained",
    ),
    "mistral": FamilyRun(
        "MistralForCausalLM", ("model.sliding_window=16", "data.document_mask=true"), {"window_one_too_short": "dp2"},
        ("config_says", "sliding_window", "15"), "window of 16 positions in 4 of 4 layers",
    ),
    "qwen2": FamilyRun(
        "Qwen2ForCausalLM", ("model.add_qkv_bias=true", "model.share_embeddings_and_output_weights=true"),
        {"biases_not_trained_on_one_rank": "tp2-sp"}, ("rows_moved", "model.layers.1.self_attn.v_proj.bias"),
        "with biases of queries, keys and values", has_a_tokenizer_of_its_own=True,
    ),
    "qwen3": FamilyRun(
        "Qwen3ForCausalLM", ("model.qk_layernorm=true", "model.kv_channels=16", "model.rotary_base=1000000"),
        {"norms_on_the_heads_not_reduced": "tp2-pp2-full-recompute"},
        ("norm_set_to_one", "model.layers.1.self_attn.q_norm.weight"), "also over each query head and each key head",
    ),
    "smollm3": FamilyRun(
        "SmolLM3ForCausalLM",
        ("model.no_rope_layer_interval=3", "model.share_embeddings_and_output_weights=true", "data.document_mask=true"),
        {"rotary_positions_left_out_of_another_layer": "pp2-vp2"}, ("config_says", "no_rope_layers", "[1, 0, 1, 1]"),
        "none in 1 of 4 layers",
    ),
    "olmo2": FamilyRun(
        "Olmo2ForCausalLM",
        ("model.norm_placement=after", "model.qk_layernorm=true", "model.qk_layernorm_scope=full"),
        {
            "norms_over_the_heads_of_one_rank": "tp2-sp",
            "gradients_through_the_other_ranks_heads_left_out": "tp2-pp2-full-recompute",
            "norms_after_the_parts_not_reduced": "tp2-sp",
        },
        ("norm_set_to_one", "model.layers.1.self_attn.k_norm.weight"), "over all query heads and over all key heads",
    ),
    "olmo3": FamilyRun(
        "Olmo3ForCausalLM",
        (
            "model.norm_placement=after", "model.qk_layernorm=true", "model.qk_layernorm_scope=full", *WINDOWS, *YARN,
            # At twice the rate, rounding of the first steps is a norm's 1e-5 by the tenth.
            "data.document_mask=true", "optim.lr=1.0e-3", "optim.min_lr=1.0e-4",
        ),
        {"windows_in_the_wrong_layers": "pp2-vp2", "attention_factor_left_out": "dp2"},
        ("config_says", "sliding_window", "15"), "window of 16 positions in 2 of 4 layers",
    ),
    "apertus": FamilyRun(
        "ApertusForCausalLM",
        ("model.activation=xielu", "model.qk_layernorm=true", *LLAMA3_SCALING, "model.ffn_hidden_size=256"),
        {"learned_activation_not_reduced": "tp2-pp2-full-recompute"},
        ("norm_set_to_one", "model.layers.1.mlp.act_fn.alpha_p"), "feed-forward (xIELU, no gate) 256",
    ),
    "nemotron": FamilyRun(
        "NemotronForCausalLM",
        (
            "model.activation=squared_relu", "model.normalization=LayerNorm", "model.layernorm_zero_centered_gamma=true",
            "model.rotary_percent=0.5", "model.kv_channels=16",
        ),
        {"norm_biases_not_reduced": "tp2-sp", "all_channels_turned_on_one_rank": "dp2"},
        ("config_says", "partial_rotary_factor", "0.25"), "50% of each head",
    ),
    "gemma": FamilyRun(
        "GemmaForCausalLM",
        (
            "model.activation=geglu", "model.embedding_scale=sqrt_hidden_size", "model.layernorm_zero_centered_gamma=true",
            "model.kv_channels=16", "model.share_embeddings_and_output_weights=true",
        ),
        {"norm_gradient_not_reduced": "tp2-sp"}, ("norm_set_to_one", "model.layers.1.input_layernorm.weight"),
        "RMSNorm before attention and feed-forward, epsilon 1e-05, weights around one",
    ),
    "gemma2": FamilyRun(
        "Gemma2ForCausalLM",
        (
            *GEMMA, "model.query_pre_attention_scalar=24", "model.attention_logit_softcap=0.2",
            "model.final_logit_softcap=1.5", "data.document_mask=true", "model.init_method_std=0.1",
        ),
        {
            "scores_not_capped_on_one_rank": "pp2-vp2", "logits_not_capped_on_one_rank": "dp2",
            "embedding_not_scaled_on_one_rank": "tp2-sp",
        },
        ("config_says", "attn_logit_softcapping", "0.3"), 'unless the model is loaded with `attn_implementation="eager"`',
    ),
    "gemma3": FamilyRun(
        "Gemma3ForCausalLM",
        (
            *GEMMA, "model.qk_layernorm=true", "model.local_rotary_base=300", "model.rotary_scaling=linear",
            "model.rotary_scaling_factor=8", "model.query_pre_attention_scalar=24",
        ),
        {"local_layers_turned_like_the_others": "dp2", "norm_gradient_not_reduced": "tp2-sp"},
        ("config_says", "query_pre_attn_scalar", "16"), "theta 300 in layers with a window",
    ),
}  # fmt: skip
"""One for each family; rotary scalings are a part of Llama's. Together they have every feature of a model."""
FAMILY_FAULTS = [(name, fault) for name, family in FAMILY_RUNS.items() for fault in family.faults]

TIED = ("model.share_embeddings_and_output_weights=true",)
