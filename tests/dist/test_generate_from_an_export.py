"""A trained model, exported by the command line, says the same 64 tokens in ``transformers`` and here."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from pretrain.inspect.generate import GenerationRequest, generate
from pretrain.model.sampling import Sampling
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import PP2, TP2

ROOT = Path(__file__).parents[2]
PROMPTS = ("The function", "def main(", "Élève café: œuvre", "東京 0123", "x")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_greedy_tokens_are_the_same_there_and_here(tied: bool, small_run: Path, tmp_path: Path) -> None:
    # Large initial weights: a model of small ones repeats one token, and so would a wrong one.
    run = make_run(
        small_run, tmp_path / "run", f"model.share_embeddings_and_output_weights={tied}", "model.init_method_std=0.1",
        "data.seq_length=128", "train.train_steps=5", "train.validation_interval=100", *TP2, *PP2,
    )  # fmt: skip
    assert (trace := run_and_trace(run)).exit_code == 0, trace.failure
    folder = tmp_path / "export"
    command = [sys.executable, "-m", "pretrain", "export", run.run_dir, "--to", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    said = []
    for prompt in PROMPTS:
        request = GenerationRequest(prompt=prompt, max_new_tokens=64, sampling=Sampling(), device="cpu")
        here = generate(folder, request, out=io.StringIO())
        inputs = tokenizer(prompt, return_tensors="pt")
        whole = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0].tolist()
        there = [token for token in whole[inputs["input_ids"].shape[1] :] if token != tokenizer.eos_token_id]
        assert here == there, prompt
        assert generate(run.run_dir, request, out=io.StringIO()) == here, "and from the checkpoint itself"
        said.append(here)
    assert max(map(len, said)) == 64
    assert len(set(map(tuple, said))) > 1 and max(len(set(ids)) for ids in said) > 5, "they say something"
