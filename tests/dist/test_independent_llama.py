"""Against a Llama written from the papers in plain PyTorch: same weights, same batches, same losses and gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config.derive import kv_channels
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at
from pretrain.data.batch import train_micro_batches
from pretrain.data.read import TrainData
from pretrain.data.reader import open_reader
from pretrain.data.sources import open_sources
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.model.gpt import build_model, unwrap
from pretrain.model.initialize import global_named_parameters
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.world import open_world
from pretrain.train.step import run_micro_batches
from tests.dist.harness import assert_same_training, make_run, run_and_trace
from tests.reference.llama import LlamaShape, ReferenceLlama, gradients_by_megatron_name, train_reference

STEPS = 10
# Our gradients are sums over micro batches in megatron's order of operations, the reference's one pass over the batch.
GRADIENT_TOLERANCE = 2e-5


def write_weights_and_gradients(run: RunConfig) -> int:
    """One rank: the initial weights, and the gradients of the first batch, under Megatron's names."""
    torch.set_num_threads(1)
    with open_world(run.parallel, seed=run.train.seed) as world, open_reader(open_sources(run), run, world) as reader:
        model = build_model(run, world)
        size = run.train.global_batch_size
        batches = train_micro_batches(reader, run.train, world, consumed_samples=0, global_batch_size=size)
        model[0].zero_grad_buffer()
        run_micro_batches(
            model, batches, run.data, run.train, world, num_samples=size, num_domains=2, forward_only=False
        )
        parameters = dict(global_named_parameters(unwrap(model)[0]))
        torch.save({name: p.detach().clone() for name, p in parameters.items()}, Path(run.run_dir) / "weights.pt")
        torch.save({name: p.main_grad.clone() for name, p in parameters.items()}, Path(run.run_dir) / "gradients.pt")
    return 0


def shape_of(run: RunConfig) -> LlamaShape:
    model = run.model
    return LlamaShape(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=kv_channels(model),
        vocab_size=model.vocab_size,
        rotary_base=model.rotary_base,
        layernorm_epsilon=model.layernorm_epsilon,
        tied=model.share_embeddings_and_output_weights,
    )


def global_batch(run: RunConfig, data: TrainData, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first = consumed_samples_at(run.train, step)
    rows = np.stack([data.sample(first + row) for row in range(run.train.global_batch_size)]).astype(np.int64)
    tokens = torch.from_numpy(rows)
    return tokens[:, :-1], tokens[:, 1:], torch.ones(tokens[:, 1:].shape)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_ten_steps_and_every_gradient_equal_an_independent_llama(tied: bool, small_run: Path, tmp_path: Path) -> None:
    # Chosen to tell mistakes apart: padded vocabulary (2000 -> 2048), groups, several micro batches, clipping.
    run = make_run(
        small_run, tmp_path, f"model.share_embeddings_and_output_weights={tied}", "optim.clip_grad=0.5",
        "model.rotary_base=5000", "model.init_method_std=0.05",
    )  # fmt: skip
    code, failure = run_local_ranks(
        write_weights_and_gradients, run, num_ranks=1, device_type="cpu", log_dir=tmp_path / "logs"
    )
    assert code == 0, failure
    weights, gradients = torch.load(tmp_path / "weights.pt"), torch.load(tmp_path / "gradients.pt")
    data = TrainData(open_sources(run), run.data)
    batches = [global_batch(run, data, step) for step in range(STEPS)]

    reference = ReferenceLlama(shape_of(run), weights)
    total, count = reference.loss(*batches[0])
    (total / count).backward()
    expected = gradients_by_megatron_name(reference)
    assert expected.keys() == gradients.keys()
    for name, gradient in expected.items():
        found = gradients[name][: gradient.shape[0]]  # the rest is vocabulary padding
        error = (found - gradient).norm() / gradient.norm()
        assert error < GRADIENT_TOLERANCE, f"gradient of {name} is {error:.1e} off"
        assert not gradients[name][gradient.shape[0] :].any(), f"padding of {name} has a gradient"

    rates = [learning_rate(run.optim, run.train, consumed_samples_at(run.train, step)) for step in range(STEPS)]
    steps = train_reference(
        ReferenceLlama(shape_of(run), weights),
        batches,
        rates,
        betas=(run.optim.adam_beta1, run.optim.adam_beta2),
        eps=run.optim.adam_eps,
        weight_decay=run.optim.weight_decay,
        clip_grad=run.optim.clip_grad,
    )
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    assert max(norm for _, norm in steps) > run.optim.clip_grad, "clipping must take part"
    for step, (loss, grad_norm) in enumerate(steps, start=1):
        assert trace.losses[step] == pytest.approx(loss, rel=2e-6), f"loss of step {step}"
        assert trace.grad_norms[step] == pytest.approx(grad_norm, rel=2e-5), f"gradient norm of step {step}"


def test_the_bound_tells_another_rotary_base_apart(small_run: Path, tmp_path: Path) -> None:
    ours = run_and_trace(make_run(small_run, tmp_path / "a"))
    other = run_and_trace(make_run(small_run, tmp_path / "b", "model.rotary_base=9000"))
    with pytest.raises(AssertionError, match="more than"):
        assert_same_training(other, ours)


def test_the_initial_weights_are_the_same_bits_in_every_layout(small_run: Path, tmp_path: Path) -> None:
    """The first loss hides nothing here: every rank's part is cut out of the whole weight and compared."""
    whole = make_run(small_run, tmp_path / "whole")
    layout = ("parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2")
    split = make_run(small_run, tmp_path / "split", *layout)
    for run, ranks in ((whole, 1), (split, 4)):
        code, failure = run_local_ranks(write_parts, run, num_ranks=ranks, device_type="cpu", log_dir=Path(run.run_dir))
        assert code == 0, failure
    full = torch.load(tmp_path / "whole" / "part-0-0.pt")
    seen = set()
    for tp_rank in range(2):
        for pp_rank in range(2):
            for name, part in torch.load(tmp_path / "split" / f"part-{tp_rank}-{pp_rank}.pt").items():
                assert torch.equal(part, cut(name, full[name], tp_rank)), f"{name} on tp_rank {tp_rank}"
                seen.add(name)
    assert seen == full.keys()


def cut(name: str, weight: torch.Tensor, tp_rank: int) -> torch.Tensor:
    if weight.dim() == 1:
        return weight
    if "linear_fc1" in name:
        return torch.cat([half.chunk(2)[tp_rank] for half in weight.chunk(2)])
    return weight.chunk(2, dim=1 if "linear_proj" in name or "linear_fc2" in name else 0)[tp_rank]


def write_parts(run: RunConfig) -> int:
    torch.set_num_threads(1)
    with open_world(run.parallel, seed=run.train.seed) as world:
        chunk = unwrap(build_model(run, world))[0]
        part = {name: parameter.detach().clone() for name, parameter in global_named_parameters(chunk)}
        torch.save(part, Path(run.run_dir) / f"part-{world.tp_rank}-{world.pp_rank}.pt")
    return 0


def test_metrics_are_one_json_object_a_line(small_run: Path, tmp_path: Path) -> None:
    run = make_run(small_run, tmp_path, "train.train_steps=1", "optim.lr_warmup_samples=0")
    run_and_trace(run)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = [record["kind"] for record in records]
    assert kinds == ["start", "validation", "step", "validation", "checkpoint", "end"]
    # What a preflight asks room for is what a save writes: the numbers, and a header of a few pages.
    assert 0 <= records[-2]["num_bytes"] - checkpoint_bytes(run.model, num_states=3) < 64 * 1024
