"""A run that no memory holds is refused before any is taken."""

import subprocess
import sys
from pathlib import Path

import pytest

from fanal.errors import PassingError, UserError
from fanal.host_memory import HostMemory
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.model.families.sizes import num_parameters
from pretrain.train import memory as module
from pretrain.train.least_memory import ON_THE_HOST, least_bytes
from pretrain.train.memory import check_memory
from tests.unit.config.test_rules import CONFIG


def run_of(tmp_path: Path, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return load_run(path, [*overrides, f"run_dir={tmp_path}/run"])


def check(run: RunConfig, *, ranks: int = 1, **more: bool) -> None:
    check_memory(run, device_type="cpu", num_ranks=ranks, ranks_here=ranks, **more)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_layers=10000", "model.hidden_size=8192"], r"optimizer of a model of model.num_layers \(10000\) x model.hidden_size \(8192\)"),
        (["model.vocab_size=2000000000"], r"model.vocab_size \(2000000000\) in 1 rank;"),
        (["train.micro_batch_size=1000000", "train.global_batch_size=1000000", "data.seq_length=4096"],
         r"train.micro_batch_size \(1000000\) x data.seq_length \(4096\); smaller ones"),
        (["train.micro_batch_size=1000000", "train.global_batch_size=1000000", "data.seq_length=4096", "train.loss_chunk_tokens=0"],
         r"train.micro_batch_size \(1000000\) x data.seq_length \(4096\) x model.vocab_size"),
        (["data.prefetch_bytes=1000000000000000", "train.train_steps=1000000000000000"], r"data.prefetch_bytes \(10+\); data.prefetch_bytes=0 works"),
    ],
)  # fmt: skip
def test_a_run_that_no_machine_here_holds_is_refused_with_what_takes_most(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=rf"the run needs at least .* GB of memory for the 1 rank on this machine, and it has .*{message}",
    ):
        check(run_of(tmp_path, *overrides))


def test_what_is_recommended_for_reading_ahead_works(tmp_path: Path) -> None:
    check(run_of(tmp_path, "data.prefetch_bytes=0", "train.train_steps=1000000000000000"))


def test_ranks_without_end_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, "parallel.data_parallel_size=100000", "train.global_batch_size=200000")
    with pytest.raises(
        UserError, match=r"Most of it is for the processes of 100,000 ranks; more machines, or fewer ranks"
    ):
        check(run, ranks=100_000)


def test_memory_that_is_only_taken_now_may_be_free_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = HostMemory(total_bytes=1 << 40, available_bytes=1 << 20, source="/proc/meminfo")
    monkeypatch.setattr(module, "host_memory", lambda: here)
    with pytest.raises(
        PassingError, match=r"of its 1,099.5 GB only 1.0 MB are free now: start again when other programs have ended"
    ):
        check(run_of(tmp_path))
    check(run_of(tmp_path), is_first=False)


@pytest.mark.parametrize(
    ("overrides", "num_ranks", "of_a_parameter"),
    [
        # weights, gradients in fp32, and AdamW's states: the master values unless the weights are these, and two moments
        (["train.precision=bf16"], 1, 2 + 4 + 12),
        (["train.precision=fp32"], 1, 4 + 4 + 8),
        (["train.precision=bf16"], 4, 4 * (2 + 4) + 12),
        (["train.precision=bf16", "parallel.use_distributed_optimizer=false"], 4, 4 * (2 + 4 + 12)),
        (["train.precision=bf16", "parallel.tensor_model_parallel_size=2"], 4, 2 * (2 + 4) + 12),
    ],
)
def test_weights_gradients_and_states_are_counted_once_or_per_replica(
    overrides: list[str], num_ranks: int, of_a_parameter: int, tmp_path: Path
) -> None:
    run = run_of(tmp_path, "train.global_batch_size=8", *overrides)
    needed = least_bytes(run, num_ranks=num_ranks)
    padding = (2048 - 2000) * 64 * 2
    parameters = num_parameters(run.model) + padding
    assert sum(needed[name] for name in ("weights", "gradients", "optimizer")) == parameters * of_a_parameter


def test_inputs_of_layers_that_wait_on_the_host_take_its_memory_and_not_the_gpu_s(tmp_path: Path) -> None:
    full = ["train.recompute=full", "train.precision=bf16"]
    held, offloaded = (
        least_bytes(run_of(tmp_path, *full, f"train.offload_activations={on}"), num_ranks=1) for on in ("false", "true")
    )
    assert held["train.offload_activations"] == 0
    assert offloaded["train.offload_activations"] == held["activations"] * 3 // 4, "of four layers the last has its own"
    assert offloaded["activations"] == held["activations"] // 4
    assert "train.offload_activations" in ON_THE_HOST


@pytest.mark.parametrize(
    ("overrides", "more_parameters"),
    [
        # 4 layers, hidden 64, feed-forward 176, 8 query heads and 4 key heads of 8
        (["model.activation=xielu"], 4 * (2 - 64 * 176)),  # two numbers a layer, and no gate
        (["model.activation=squared_relu"], 4 * -64 * 176),
        (["model.activation=geglu"], 0),
        (["model.normalization=LayerNorm"], 4 * 2 * 64 + 64),  # a bias beside every weight
        (["model.norm_placement=after"], 0),
        (["model.norm_placement=both", "model.normalization=LayerNorm"], 4 * (2 + 4) * 64 + 64),
        (["model.qk_layernorm=true"], 4 * 2 * 8),
        (["model.qk_layernorm=true", "model.qk_layernorm_scope=full"], 4 * (64 + 32)),
        (["model.add_qkv_bias=true"], 4 * (64 + 2 * 32)),
        (["model.sliding_window=16", "model.final_logit_softcap=30", "train.z_loss_weight=1e-5"], 0),
    ],
)
def test_what_a_model_has_beside_a_llama_is_counted(overrides: list[str], more_parameters: int, tmp_path: Path) -> None:
    plain, other = (least_bytes(run_of(tmp_path, *stated), num_ranks=1) for stated in ([], overrides))
    bytes_of = {"weights": 2, "gradients": 4, "optimizer": 12}
    assert {name: other[name] - plain[name] for name in plain} == {
        name: more_parameters * bytes_of.get(name, 0) for name in plain
    }


def test_a_gpu_s_share_counts_against_its_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gpu_memory_bytes", lambda: 1 << 30)
    run = run_of(tmp_path, "model.hidden_size=8192", "model.num_layers=8")
    with pytest.raises(
        UserError,
        match=r"the run needs at least .* GB of memory for a GPU, and one has 1.1 GB. Most of it is for optimizer",
    ):
        check_memory(run, device_type="cuda", num_ranks=1, ranks_here=1)
    check_memory(run_of(tmp_path), device_type="cuda", num_ranks=1, ranks_here=1)


@pytest.mark.parametrize("command", ["train", "prove"])
def test_the_command_refuses_before_it_takes_memory_and_leaves_nothing(
    command: str, small_run: Path, tmp_path: Path
) -> None:
    too_large = ["model.num_layers=10000", "model.hidden_size=8192", f"run_dir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-m", "fanal", command, str(small_run), *too_large],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: the run needs at least ")
    assert not (tmp_path / "run").exists()


def test_an_optimizer_with_a_second_moment_for_some_parameters_alone_needs_less(tmp_path: Path) -> None:
    adamw, muon = (least_bytes(run_of(tmp_path, f"optim.name={name}"), num_ranks=1) for name in ("adamw", "muon"))
    model = run_of(tmp_path).model
    assert not model.share_embeddings_and_output_weights and not model.add_qkv_bias
    head = 4 * model.hidden_size // model.num_attention_heads  # bytes of a row of a head, in a column
    heads = model.num_attention_heads + model.num_query_groups
    columns = 2 * heads * head + 4 * 3 * model.ffn_hidden_size
    assert adamw["optimizer"] - muon["optimizer"] == model.num_layers * model.hidden_size * columns
    assert {key: size for key, size in adamw.items() if key != "optimizer"} == {
        key: size for key, size in muon.items() if key != "optimizer"
    }
