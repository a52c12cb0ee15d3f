"""Each family trains as `transformers` trains it, and comes back from an export bit for bit."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from pretrain.checkpoint.disk.config_file import read_model
from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.ours.names import hf_tensors
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.model.families import family_of
from pretrain.model.families.tensors import tensors_of
from pretrain.model.initialize import full_rows
from pretrain.optim.schedule import learning_rate
from tests.dist.export_faults import Case
from tests.dist.harness import make_run, run_and_trace
from tests.dist.test_export import in_a_process
from tests.dist.test_family_layouts import LAST_VALIDATION_ALONE
from tests.reference.llama import train_reference
from tests.runs import their_tokenizers
from tests.runs.cases import FAMILY_RUNS, PP2, TP2
from tokenizer.encoding.encode import encode
from tokenizer.vocabulary.import_folder import import_tokenizer

WHOLE = ("data.document_mask=false",)
"""transformers reads a row as one document."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products on several threads wait for each other, for seconds where other work is on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Theirs:
    """A model of transformers, with the loss that the reference is trained by."""

    def __init__(self, run: RunConfig) -> None:
        family = family_of(run.model)
        content = family.write_config(run.model) | {"vocab_size": run.model.vocab_size, "max_position_embeddings": 64}
        ids = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
        config = transformers.AutoConfig.for_model(family.model_type, **content, **ids)
        self.model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
        self.parameters = self.model.parameters
        self.z_loss_weight, self.cross_entropies = run.train.z_loss_weight, list[float]()
        values = initial_values(run)
        state = {
            tensor.name: torch.tensor(tensor.constant)
            if tensor.constant is not None
            else torch.cat([values[tensor.tensor][box.offset[0] : box.offset[0] + box.size[0]] for box in tensor.boxes])
            for tensor in hf_tensors(run.model, vocab_size=run.model.vocab_size)
        }
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
        self.model.tie_weights()

    def loss(self, tokens: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(input_ids=tokens).logits
        log_p = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        self.cross_entropies.append(-(log_p * mask).sum().item() / mask.sum().item())
        z_loss = (logits.logsumexp(-1).square() * mask).sum()
        return -(log_p * mask).sum() + self.z_loss_weight * z_loss, mask.sum()


def initial_values(run: RunConfig) -> dict[str, torch.Tensor]:
    """What a run begins with, drawn as a whole."""
    values = {}
    for name, spec in tensors_of(run.model).items():
        if spec.init_std is None:
            values[name] = torch.full(spec.shape, spec.init_value)
            continue
        rows, std = spec.shape[0] // len(spec.seed_names), spec.init_std
        drawn = [
            full_rows(seed=run.train.seed, name=section, std=std, rows=range(rows), columns=spec.shape[1])
            for section in spec.seed_names
        ]
        values[name] = torch.from_numpy(np.concatenate(drawn))
    return values


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", FAMILY_RUNS)
def test_ten_steps_are_those_of_transformers(name: str, small_run: Path, tmp_path: Path) -> None:
    """Norms of 1 move from the first step on, so that what is done with them shows in all that follow."""
    run = make_run(
        small_run, tmp_path, *FAMILY_RUNS[name].overrides, *WHOLE, *LAST_VALIDATION_ALONE, "optim.clip_grad=0.5"
    )
    data = TrainData(open_sources(run), run.data)
    batches, rates = [], []
    for step in range(10):
        first = consumed_samples_at(run.train, step)
        rows = np.stack([data.sample(first + row) for row in range(run.train.global_batch_size)]).astype(np.int64)
        tokens = torch.from_numpy(rows)
        batches.append((tokens[:, :-1], tokens[:, 1:], torch.ones(tokens[:, 1:].shape)))
        rates.append(learning_rate(run.optim, run.train, first))
    theirs = Theirs(run)
    for name_of_buffer, buffer in theirs.model.named_buffers():
        if name_of_buffer.endswith("act_fn.eps"):
            buffer.zero_()  # the slope of its xIELU jumps between eps and 0, where ours has none (kernels/reference.py)
    steps = train_reference(
        theirs, batches, rates,
        betas=(run.optim.adam_beta1, run.optim.adam_beta2), eps=run.optim.adam_eps,
        weight_decay=run.optim.weight_decay, clip_grad=run.optim.clip_grad,
    )  # fmt: skip
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    for step, ((_, grad_norm), loss) in enumerate(zip(steps, theirs.cross_entropies, strict=True), start=1):
        assert trace.losses[step] == pytest.approx(loss, rel=2e-6), f"loss of step {step}"
        assert trace.grad_norms[step] == pytest.approx(grad_norm, rel=2e-5), f"gradient norm of step {step}"


@pytest.fixture(scope="module")
def on_their_tokenizer(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of a run on the same texts in the ids of a tokenizer of Qwen's kind."""
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = import_tokenizer(their_tokenizers.qwen(folder / "theirs"), folder / "tokenizer")
    for split in ("train", "validation"):
        encode(tokenizer.directory, [data_folder / "corpus" / split / "code.jsonl"], folder / split, num_workers=1)
    return (
        f"data.tokenizer={tokenizer.directory}",
        f"data.train=[{{prefix: {folder / 'train'}}}]",
        f"data.validation=[{{prefix: {folder / 'validation'}}}]",
        f"model.vocab_size={tokenizer.vocab_size}",
    )


def saved_by_transformers(run: RunConfig, folder: Path) -> Path:
    """Save a run's model as transformers does, its norms and biases away from where they begin."""
    model = Theirs(run).model
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += torch.rand(parameter.shape, generator=generator) / 2 - 0.25
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exports(small_run: Path, on_their_tokenizer: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each family as transformers saves it, imported, trained five steps in TP2 x PP2, and exported soundly and with a fault:
    runs/NAME, out/NAME, results.json.

    At this rate five steps move the weights so far that each fault shows; ten at the rate of the layouts do not.
    """
    folder, cases = tmp_path_factory.mktemp("families"), []
    for place in ("out", "hf", "imported"):
        (folder / place).mkdir()
    for name, family in FAMILY_RUNS.items():
        fast = ("train.train_steps=5", "optim.lr=1.0e-2", "train.validation_interval=100")
        data = on_their_tokenizer if family.has_a_tokenizer_of_its_own else ()
        changes = (*family.overrides, *TP2, *PP2, *fast, *data)
        imported = folder / "imported" / name
        import_hf(saved_by_transformers(make_run(small_run, folder, *changes), folder / "hf" / name), imported)
        begin = (f"checkpoint.init_from={imported}", "checkpoint.init_optimizer=fresh")
        run = make_run(small_run, folder / "runs" / name, *changes, *begin)
        trace = run_and_trace(run)
        assert trace.exit_code == 0, trace.failure
        for case, fault in ((name, ()), (f"{name}-broken", family.export_fault)):
            cases.append(Case(case, run.run_dir, str(folder / "out" / case), {"dtype": "fp32"}, (), fault))
    code, failure = in_a_process(cases, folder)
    assert code == 0, failure
    return folder


@pytest.mark.parametrize("name", FAMILY_RUNS)
def test_what_is_exported_comes_back_bit_for_bit(name: str, exports: Path, tmp_path: Path) -> None:
    result = json.loads((exports / "results.json").read_text())[name]
    assert result["code"] == 0, result["text"]
    folder = exports / "out" / name
    assert json.loads((folder / "config.json").read_text())["architectures"] == [FAMILY_RUNS[name].architecture]
    assert json.loads((folder / "certificate.json").read_text())["figures"]["top1_agreement"] == 1.0
    assert FAMILY_RUNS[name].on_the_card in (folder / "README.md").read_text()
    imported = import_hf(folder, tmp_path / "imported").checkpoint
    (trained,) = (exports / "runs" / name / "checkpoints").glob("step-*5")
    assert read_model(imported) == read_model(trained)
    with open_tensors(trained) as before, open_tensors(imported) as after:
        assert before.index.tensors.keys() == after.index.tensors.keys()
        for tensor in before.index.tensors:
            assert np.array_equal(before.read_all(tensor, "param"), after.read_all(tensor, "param")), tensor


@pytest.mark.parametrize("name", FAMILY_RUNS)
def test_a_fault_in_an_export_is_found_by_the_certificate(name: str, exports: Path) -> None:
    result = json.loads((exports / "results.json").read_text())[f"{name}-broken"]
    assert result["code"] == 76, result["text"]
    assert "the export is not the model in" in result["text"] and not result["is_there"]
