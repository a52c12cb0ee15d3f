"""log.stability_interval: the numbers of a report against plain hooks on an independent Llama, in every layout, and what a report
leaves alone. Each layout of test_layout_parity is compared there.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import Trace, assert_same_stability, make_run, run_and_trace
from tests.dist.short_documents import write_short_documents
from tests.dist.test_independent_llama import global_batch, shape_of, write_weights_and_gradients
from tests.reference.llama import (
    ReferenceLlama,
    gradients_by_megatron_name,
    rotate,
    train_reference,
    weights_by_megatron_name,
)
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, PP2, SP, TIED, TP2, VP2

EACH = "log.stability_interval=1"
STEPS = 4


class Hooked:
    """What plain hooks see of the last forward of a reference Llama, and the weights it ran with."""

    def __init__(self, model: ReferenceLlama) -> None:
        self.model = model
        self.seen: dict[str, torch.Tensor] = {}
        self.weights: dict[str, torch.Tensor] = {}
        model.register_forward_pre_hook(self._before)
        self._see("embedding", model.embed_tokens)
        self._see("logits", model.lm_head)
        for number, layer in enumerate(model.layers):
            self._see(f"residual {number}", layer)
            self._see(f"attention {number}", layer.self_attn)  # type: ignore[arg-type]
            self._see(f"feed_forward {number}", layer.mlp)  # type: ignore[arg-type]
            self._see(f"query {number}", layer.self_attn.q_proj)  # type: ignore[union-attr,arg-type]
            self._see(f"key {number}", layer.self_attn.k_proj)  # type: ignore[union-attr,arg-type]

    def _before(self, *_: Any) -> None:
        self.weights = {name: weight.clone() for name, weight in weights_by_megatron_name(self.model).items()}

    def _see(self, name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(
            lambda *inputs_and_output: self.seen.update({name: inputs_and_output[-1].detach()})
        )

    def attention_logits(self, layer: int) -> torch.Tensor:
        """All scaled logits of the layer that the softmax sees, in a row."""
        shape = self.model.shape
        query, key = (
            rotate(
                self.seen[f"{name} {layer}"].unflatten(-1, (-1, shape.kv_channels)).transpose(1, 2), shape.rotary_base
            )
            for name in ("query", "key")
        )
        key = key.repeat_interleave(shape.num_attention_heads // shape.num_query_groups, dim=1)
        scores = query @ key.transpose(-1, -2) / shape.kv_channels**0.5
        return scores[..., torch.ones(scores.shape[-2:], dtype=torch.bool).tril()]


def part_of(name: str) -> str:
    """What the report calls the part that a tensor belongs to: a layer's number, or its name outside."""
    if name.startswith("decoder.layers."):
        return name.split(".")[2]
    return {"embedding.word_embeddings.weight": "embedding", "output_layer.weight": "output_layer"}.get(
        name, "final_norm"
    )


def expected_of(run: RunConfig, weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """The numbers of a report after STEPS steps, by plain PyTorch."""
    model = ReferenceLlama(shape_of(run), weights)
    hooked = Hooked(model)
    data = TrainData(open_sources(run), run.data)
    optim = run.optim
    history = train_reference(
        model,
        [global_batch(run, data, step) for step in range(STEPS)],
        [learning_rate(optim, run.train, consumed_samples_at(run.train, step)) for step in range(STEPS)],
        betas=(optim.adam_beta1, optim.adam_beta2),
        eps=optim.adam_eps,
        weight_decay=optim.weight_decay,
        clip_grad=optim.clip_grad,
    )
    clipped_by = optim.clip_grad / (history[-1][1] + 1e-6)
    assert clipped_by < 1, "clipping must take part"
    after = weights_by_megatron_name(model)
    gradients = gradients_by_megatron_name(model)
    squares: dict[str, list[float]] = {}
    for name, weight in hooked.weights.items():
        numbers = squares.setdefault(part_of(name), [0.0, 0.0, 0.0])
        tensors = (gradients[name] / clipped_by, weight, after[name] - weight)
        for place, tensor in enumerate(tensors):
            numbers[place] += float(tensor.double().square().sum())
    found: dict[str, float] = {}
    for part, sums in squares.items():
        gradient, weight, update = (one**0.5 for one in sums)
        norms = {
            "gradient_norm": gradient,
            "weight_norm": weight,
            "update_norm": update,
            "update_ratio": update / weight,
        }
        is_layer = part.isdigit()
        found |= {f"{name} {part}" if is_layer else f"outside_layers {part} {name}": one for name, one in norms.items()}
    for layer in range(run.model.num_layers):
        for name in ("residual", "attention", "feed_forward"):
            found[f"{name}_rms {layer}"] = float(hooked.seen[f"{name} {layer}"].double().square().mean().sqrt())
        found[f"residual_max {layer}"] = float(hooked.seen[f"residual {layer}"].abs().max())
        found[f"attention_logit_max {layer}"] = float(hooked.attention_logits(layer).max())
    found["embedding_rms"] = float(hooked.seen["embedding"].double().square().mean().sqrt())
    found["output_logit_max"] = float(hooked.seen["logits"].max())
    found["log_denominator_mean"] = float(hooked.seen["logits"].logsumexp(dim=-1).double().mean())
    found["consumed_tokens"] = STEPS * run.train.global_batch_size * run.data.seq_length
    return found


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_number_is_that_of_plain_hooks_on_an_independent_llama(
    tied: bool, small_run: Path, tmp_path: Path
) -> None:
    # Chosen to tell mistakes apart: padded vocabulary, groups, several micro batches, clipping, no warm-up from zero.
    run = make_run(
        small_run, tmp_path, f"model.share_embeddings_and_output_weights={tied}", "optim.clip_grad=0.5",
        "model.rotary_base=5000", "model.init_method_std=0.05", "optim.lr_warmup_samples=0", f"train.train_steps={STEPS}",
        EACH,
    )  # fmt: skip
    code, failure = run_local_ranks(
        write_weights_and_gradients, run, num_ranks=1, device_type="cpu", log_dir=tmp_path / "logs"
    )
    assert code == 0, failure
    expected = expected_of(run, torch.load(tmp_path / "weights.pt"))
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    reference = replace(trace, stability={**trace.stability, STEPS: dict(expected)})
    assert_same_stability(trace, reference)
    of_all = [number for name, number in expected.items() if name.split()[0] == "gradient_norm"]
    of_all += [number for name, number in expected.items() if name.endswith(" gradient_norm")]
    together = sum(number**2 for number in of_all) ** 0.5
    assert together == pytest.approx(trace.grad_norms[STEPS], rel=2e-5), "the parts make up the whole norm"


FAULTS = {
    "copies_over_tensor_ranks_counted_twice": (TP2, "plain"),
    "layers_counted_from_each_stage": (PP2, "plain"),
    "tied_copy_counted_twice": (PP2, "tied"),
    "masters_of_every_replica_counted": (DP2 + NO_DISTRIBUTED_OPTIMIZER, "plain"),
    "last_micro_batch_alone": (TP2, "plain"),
    "documents_ignored_in_the_logits": (PP2, "documents"),
}
"""Layout that shows it, and the run that it is shown with."""
SHORT = ("log.stability_interval=2", "train.train_steps=4")


@pytest.fixture(scope="module")
def runs(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Overrides of each run."""
    documents = write_short_documents(data_folder, tmp_path_factory.mktemp("short-documents"))
    return {"plain": SHORT, "tied": (*TIED, *SHORT), "documents": (*documents, *SHORT)}


@pytest.fixture(scope="module")
def alone(
    small_run: Path, runs: dict[str, tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trace]:
    """One rank's reports of each run."""
    return {
        name: run_and_trace(make_run(small_run, tmp_path_factory.mktemp("alone"), *overrides))
        for name, overrides in runs.items()
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_report_is_found_and_without_it_nothing_is(
    fault: str, small_run: Path, tmp_path: Path, runs: dict[str, tuple[str, ...]], alone: dict[str, Trace]
) -> None:
    layout, name = FAULTS[fault]
    sound = run_and_trace(make_run(small_run, tmp_path / "sound", *layout, *runs[name]))
    assert_same_stability(sound, alone[name])
    broken = run_and_trace(make_run(small_run, tmp_path / "broken", *layout, *runs[name]), fault)
    assert broken.exit_code == 0, broken.failure
    assert (broken.losses, broken.grad_norms) == (sound.losses, sound.grad_norms), "it is the report that is wrong"
    with pytest.raises(AssertionError, match=r"of step \d+: .* more than|is missing or not finite"):
        assert_same_stability(broken, alone[name])


@pytest.mark.parametrize(
    "layout",
    [(), (*TP2, *SP, *PP2, *VP2, "train.recompute=full", "data.document_mask=true"), (*DP2, "train.precision=bf16")],
    ids=["one rank", "TP2 + SP x PP2 (2 stages a rank), recomputed, documents", "DP2 in bf16"],
)
def test_training_is_the_same_bits_with_reports_as_without(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path
) -> None:
    shared = (*layout, "train.train_steps=4", "optim.clip_grad=0.5")
    plain = run_and_trace(make_run(small_run, tmp_path / "plain", *shared))
    watched = run_and_trace(make_run(small_run, tmp_path / "watched", *shared, EACH))
    assert plain.exit_code == watched.exit_code == 0, (plain.failure, watched.failure)
    assert (list(watched.stability), plain.stability) == ([1, 2, 3, 4], {})
    assert (watched.losses, watched.grad_norms) == (plain.losses, plain.grad_norms) and len(plain.losses) == 4
    assert tensors_in(tmp_path / "watched") == tensors_in(tmp_path / "plain")


def tensors_in(run_dir: Path) -> dict[str, str]:
    """A hash of each file of tensors in the last checkpoint, weights and moments."""
    (last,) = (run_dir / "checkpoints").iterdir()
    files = [path for path in last.rglob("*") if path.suffix in (".safetensors", ".bin", ".pt")]
    assert files, f"no tensors among {sorted(path.name for path in last.rglob('*'))}"
    return {path.relative_to(last).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


DIVERGES = (
    "optim.lr=0.3", "optim.min_lr=0.3", "optim.lr_warmup_samples=1200", "optim.clip_grad=0", "train.train_steps=150",
    "train.validation_interval=1000", "log.stability_interval=15", "train.micro_batch_size=8",
)  # fmt: skip
"""The rate rises to a hundred times a good one, over all of the run."""


def of_windows(trace: Trace) -> list[float]:
    """Mean losses of 15 steps each: those that a report ends."""
    losses = [loss for loss in trace.losses.values() if loss is not None]
    return [sum(losses[first : first + 15]) / 15 for first in range(0, len(losses), 15)]


def largest_logits(trace: Trace) -> list[float]:
    """The largest attention logit of any layer, report by report."""
    return [
        max(value for name, value in numbers.items() if name.startswith("attention_logit_max ") and value is not None)
        for numbers in trace.stability.values()
    ]


def test_attention_logits_of_a_run_that_diverges_grow_while_its_loss_still_falls(
    small_run: Path, tmp_path: Path
) -> None:
    """The best loss is that of steps 46 to 60, whatever the seed. QK-norm bounds the logits, and the loss falls on."""
    diverging = run_and_trace(make_run(small_run, tmp_path / "plain", *DIVERGES))
    normed = run_and_trace(make_run(small_run, tmp_path / "normed", *DIVERGES, "model.qk_layernorm=true"))
    losses, logits = of_windows(diverging), largest_logits(diverging)
    assert len(losses) == len(logits) == 10
    best = losses.index(min(losses))
    assert best < 8 and losses[-1] > min(losses) + 0.05, "it diverges"
    assert losses[0] > losses[1] > losses[2] and logits[2] > 50, "they grow while the loss falls"
    assert logits[best] > 100 and logits[-1] > 10 * logits[best], "they had grown when the loss was at its best"
    assert max(largest_logits(normed)) < 100, "and with QK-norm they had not"
    assert of_windows(normed)[-1] < losses[-1] - 0.05
