"""What a checkpoint says: by a decoder that shares nothing with the trainer but definitions, against the trainer itself."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fanal.kernels.reference import cross_entropy
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.loading.load import load_checkpoint
from pretrain.config.schema import RunConfig
from pretrain.convert.open_model import open_model
from pretrain.data.reader import open_reader
from pretrain.data.sources import open_sources
from pretrain.inspect.generate import GenerationRequest, generate, load_decoder, new_tokens, prompt_ids, write_text
from pretrain.model.gpt import build_model, unwrap
from pretrain.model.inference import InferenceDecoder
from pretrain.model.sampling import Sampler, Sampling
from pretrain.optim.optimizer import build_optimizer
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.world import open_world
from tests.dist.harness import Trace, make_run, run_and_trace
from tests.dist.hf_folder import write_hf_folder
from tests.runs.cases import PP2, TP2

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
GREEDY = GenerationRequest(prompt="The function", max_new_tokens=12, sampling=Sampling(), device="cpu")


@pytest.fixture(scope="module", params=["untied", "tied"])
def trained(
    request: pytest.FixtureRequest, small_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, Trace]:
    """A run of ten steps on tensor 2 x pipeline 2, with groups and a padded vocabulary."""
    folder = tmp_path_factory.mktemp("generate") / request.param
    tied = f"model.share_embeddings_and_output_weights={request.param == 'tied'}"
    run = make_run(small_run, folder, tied, "train.validation_interval=100", "model.init_method_std=0.05", *TP2, *PP2)
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    return run, trace


def decoder_of(path: str | Path) -> InferenceDecoder:
    with open_model(path) as opened:
        return load_decoder(opened, CPU)


def validation_tokens(run: RunConfig) -> dict[str, torch.Tensor]:
    """By domain, the chunks that the validation loss is taken of: int64 [samples, s + 1]."""
    found = {}
    for source in open_sources(run).validation:
        starts = [source.start_token(rank) for rank in range(run.train.validation_samples)]
        rows = [np.asarray(source.shard.tokens[start : start + run.data.seq_length + 1]) for start in starts]
        found[source.domain] = torch.from_numpy(np.stack(rows).astype(np.int64))
    return found


def losses(decoder: InferenceDecoder, run: RunConfig) -> dict[str, float]:
    return {
        domain: cross_entropy(decoder.logits(rows[:, :-1]), rows[:, 1:]).double().mean().item()
        for domain, rows in validation_tokens(run).items()
    }


def test_the_validation_loss_of_the_last_step_is_the_decoder_s(trained: tuple[RunConfig, Trace]) -> None:
    run, trace = trained
    found, expected = losses(decoder_of(run.run_dir), run), trace.validation[run.train.train_steps]
    assert found.keys() == expected.keys() and len(found) == 2
    for domain, loss in expected.items():
        assert found[domain] == pytest.approx(loss, abs=1e-5), domain
    # A planted fault: the theta of another model, which is no weight, moves it by more than the bound.
    decoder = decoder_of(run.run_dir)
    decoder.model = replace(decoder.model, rotary_base=20.0)
    assert any(abs(loss - expected[domain]) > 1e-5 for domain, loss in losses(decoder, run).items())


def write_logits(run: RunConfig) -> int:
    """One rank: the trainer's own logits of the first validation rows, from the checkpoint."""
    torch.set_num_threads(1)
    with open_world(run.parallel, seed=run.train.seed) as world, open_reader(open_sources(run), run, world) as reader:
        model = build_model(run, world)
        load_checkpoint(run, model, build_optimizer(run, model), reader, world)
        tokens = next(iter(validation_tokens(run).values()))[:2, :-1]
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        with torch.no_grad():
            logits = unwrap(model)[0].eval()(tokens, positions, None)
        torch.save(logits, Path(run.run_dir) / "logits.pt")
    return 0


def test_its_logits_are_the_trainer_s(trained: tuple[RunConfig, Trace], small_run: Path) -> None:
    run, _ = trained
    tied = f"model.share_embeddings_and_output_weights={run.model.share_embeddings_and_output_weights}"
    one_rank = make_run(small_run, Path(run.run_dir), tied, "model.init_method_std=0.05")
    code, failure = run_local_ranks(
        write_logits, one_rank, num_ranks=1, device_type="cpu", log_dir=Path(run.run_dir) / "one"
    )
    assert code == 0, failure
    expected = torch.load(Path(run.run_dir) / "logits.pt")[..., : run.model.vocab_size]
    tokens = next(iter(validation_tokens(run).values()))[:2, :-1]
    found = decoder_of(run.run_dir).logits(tokens)
    assert expected.std() > 0.1
    bound = 1e-5 * expected.abs().max()
    assert (found - expected).abs().max() < bound
    decoder = decoder_of(run.run_dir)
    decoder.model = replace(decoder.model, rotary_base=9000.0)
    assert (decoder.logits(tokens) - expected).abs().max() > bound, "another theta must be seen"


def test_with_the_cache_the_text_is_the_one_without(trained: tuple[RunConfig, Trace]) -> None:
    run, _ = trained
    with open_model(run.run_dir) as opened:
        decoder, ids = load_decoder(opened, CPU), prompt_ids(opened, "The function")
    assert ids[0] == 0, "a document begins with BOS"
    cached = list(new_tokens(decoder, ids, 40, Sampler(Sampling()), frozenset()))
    plain = list(ids)
    for _ in range(40):
        plain.append(int(decoder.logits(torch.tensor([plain]))[0, -1].argmax()))
    assert cached == plain[len(ids) :]


def test_it_streams_repeats_with_a_seed_and_stops_at_the_end_of_the_text(trained: tuple[RunConfig, Trace]) -> None:
    run, _ = trained

    def text(**options: Any) -> str:
        out = io.StringIO()
        generate(run.run_dir, replace(GREEDY, sampling=Sampling(**options)), out=out)
        return out.getvalue()

    assert text() == text() and text().startswith("The function") and text().endswith("\n")
    assert text(temperature=1.0, seed=1) == text(temperature=1.0, seed=1)
    assert len({text(temperature=1.0, seed=seed) for seed in range(4)}) > 1
    decoder = decoder_of(run.run_dir)
    likeliest = list(new_tokens(decoder, [0, 50, 60], 5, Sampler(Sampling()), frozenset()))
    stop = likeliest[2]
    expected = likeliest[: likeliest.index(stop)]
    assert list(new_tokens(decoder, [0, 50, 60], 5, Sampler(Sampling()), frozenset({stop}))) == expected


def test_a_text_that_fills_the_length_of_the_model_ends_there(
    trained: tuple[RunConfig, Trace], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    found = generate(run.run_dir, replace(GREEDY, max_new_tokens=1000), out=io.StringIO())
    said = capsys.readouterr().err
    with open_model(run.run_dir) as opened:
        room = 64 - len(prompt_ids(opened, GREEDY.prompt))
    assert len(found) == room and "ended by: the model's longest sequence, 64 tokens" in said


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(
    trained: tuple[RunConfig, Trace], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    folder = Path(shutil.copytree(Path(run.run_dir) / "checkpoints", tmp_path / "run" / "checkpoints"))
    newer = Path(shutil.copytree(folder / "step-00000010", folder / "step-00000011"))
    expected = generate(folder / "step-00000010", GREEDY, out=io.StringIO())
    capsys.readouterr()
    assert generate(tmp_path / "run", GREEDY, out=io.StringIO()) == expected
    assert "warning: " in (said := capsys.readouterr().err) and "step-00000011" in said
    assert newer.is_dir(), "nothing is set aside by looking"
    shard = next((folder / "step-00000010" / "shards").iterdir())
    with shard.open("r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.write(b"\x01")
    generate(folder / "step-00000010", GREEDY, out=io.StringIO())  # a byte in place is for --deep to find
    with pytest.raises(DamagedCheckpointError, match="its bytes changed"):
        generate(folder / "step-00000010", GREEDY, deep=True)


def test_a_checkpoint_its_hugging_face_folder_and_the_import_of_that_say_the_same(
    trained: tuple[RunConfig, Trace], tmp_path: Path
) -> None:
    from pretrain.convert.importing.import_folder import import_hf

    run, _ = trained
    folder = write_hf_folder(Path(run.run_dir), tmp_path / "hf")
    imported = import_hf(folder, tmp_path / "imported").checkpoint
    texts = {}
    for path in (run.run_dir, folder, imported):
        out = io.StringIO()
        generate(path, replace(GREEDY, max_new_tokens=30), out=out)
        texts[str(path)] = out.getvalue()
    assert len(set(texts.values())) == 1, texts
    # The checkpoint's own numbers and sums are those of the import, padding included.
    original, copy = (
        json.loads((path / "tensors.json").read_text())
        for path in (Path(run.run_dir) / "checkpoints" / "step-00000010", imported)
    )
    sums = [
        {tensor["name"]: (tensor["shape"], tensor["weights_sum"]) for tensor in index["tensors"]}
        for index in (original, copy)
    ]
    assert sums[0] == sums[1]


def test_another_tokenizer_and_none_are_refused(
    trained: tuple[RunConfig, Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained
    folder = write_hf_folder(Path(run.run_dir), tmp_path / "hf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"hf has no tokenizer: .*; give the folder of one with --tokenizer DIR"):
        generate(folder, GREEDY)
    assert generate(folder, GREEDY, tokenizer=run.data.tokenizer, out=io.StringIO()) is not None
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer that the library tokenizers can read"):
        generate(folder, GREEDY)
    with pytest.raises(ValueError, match=r"--tokenizer \(/nowhere\) must be a folder"):
        generate(run.run_dir, GREEDY, tokenizer="/nowhere")
    monkeypatch.setattr("pretrain.convert.open_model._tokenizer_sha256", lambda checkpoint: "ab" * 32)
    with pytest.raises(
        ValueError, match=r"\(sha256 [0-9a-f]{12}\) must be the one that .* was trained with \(sha256 abababababab\)"
    ):
        generate(run.run_dir, GREEDY)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (replace(GREEDY, prompt="a\udcff"), r"prompt \('a\\udcff'\) must be text in UTF-8"),
        (replace(GREEDY, prompt=""), r"prompt \(''\) gives no tokens; 'The' works"),
        (replace(GREEDY, max_new_tokens=0), r"max_new_tokens \(0\) must be above 0; 64 works"),
        (
            replace(GREEDY, prompt="x y " * 64),
            r"prompt \([0-9]+ tokens\) must be shorter than the model's longest sequence \(64 tokens\).*; 63 tokens work",
        ),
    ],
)
def test_a_request_that_cannot_be_is_one_message(
    request_: GenerationRequest, message: str, trained: tuple[RunConfig, Trace]
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(trained[0].run_dir, request_)


def test_a_path_without_a_model_is_one_message(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "step-00000003"):
        with pytest.raises(ValueError, match=r"CHECKPOINT_OR_HF_DIR \(.*\) must be a checkpoint's folder"):
            generate(path, GREEDY)


def test_a_character_is_written_once_it_is_whole() -> None:
    pieces = {7: b"a", 8: "é".encode()[:1], 9: "é".encode()[1:], 10: b"\xff"}

    class Writes(list[str]):
        def write(self, text: str) -> None:
            self.append(text)

        def flush(self) -> None:
            pass

    def decode(ids: list[int]) -> str:
        return b"".join(pieces[token] for token in ids).decode(errors="replace")

    out = Writes()
    assert write_text(iter([8, 9, 7, 10]), [7], decode, out) == [8, 9, 7, 10]  # type: ignore[arg-type]
    assert [text for text in out if text] == ["é", "a", "\ufffd"]


def test_the_command_line_prints_the_text_alone_on_standard_output(trained: tuple[RunConfig, Trace]) -> None:
    run, _ = trained
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "generate",
        run.run_dir,
        "--prompt",
        "The function",
        "--max-new-tokens",
        "5",
    ]
    is_wrong = run.model.share_embeddings_and_output_weights  # a right call on the one model, a wrong one on the other
    options = ["--temperature", "-1"] if is_wrong else ["--top-k", "9"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    if is_wrong:
        assert (
            done.returncode == 2
            and done.stderr
            == "error: temperature (-1.0) must be a finite number of at least 0; 0 takes the likeliest token\n"
        )
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("The function") and "tokens/s on" in done.stderr
