"""What one program makes of exported folders: ``python -m tests.interop.ask PROGRAM QUESTIONS.json ANSWERS.json``.

Each program runs in a process of its own, so that it may come from another environment than the tests.
"""

import json
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Answers = dict[str, Any]
"""What a program says of one folder, by the names of tests/interop/programs.py; what it cannot be asked is left out."""


def transformers(folder: Path, asked: dict[str, Any]) -> Answers:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # transformers 4 leaves the soft cap of Gemma 2's scores out without a word, unless it is told; no key of config.json tells it.
    is_gemma2 = json.loads((folder / "config.json").read_text())["model_type"] == "gemma2"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager" if is_gemma2 else None
    ).eval()
    with torch.no_grad():
        logs = [model(torch.tensor([ids])).logits[0].log_softmax(-1) for ids in asked["samples"]]
    prompt = torch.tensor([asked["prompt"]])
    said = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=asked["num_new"], do_sample=False
    )
    return {
        "version": transformers.__version__,
        "by_default": [tokenizer(text)["input_ids"] for text in asked["texts"]],
        "as_text": [
            tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            for text in asked["texts"] + asked["named"]
        ],
        "named": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["named"]],
        "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in asked["samples"]],
        "names": [tokenizer.decode([token]) for token in asked["special"]],
        "chats": _chats(tokenizer, asked),
        "losses": _losses([log.tolist() for log in logs], asked["samples"]),
        "greedy": said[0, prompt.shape[1] :].tolist(),
    }


def _chats(tokenizer: Any, asked: dict[str, Any]) -> list[list[int]]:
    """The ids of a conversation by each template, after the tokens that it needs were added as they usually are."""
    found = []
    for template in asked["templates"]:
        tokenizer.add_special_tokens({"additional_special_tokens": template["tokens"]})
        ids = tokenizer.apply_chat_template(asked["conversation"], chat_template=template["text"])
        ids = ids if isinstance(ids, list) else ids["input_ids"]
        found.append([tokenizer.convert_ids_to_tokens(token) for token in ids])
    return found


def tokenizers(folder: Path, asked: dict[str, Any]) -> Answers:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    by_default = [tokenizer.encode(text).ids for text in asked["texts"]]
    named = [tokenizer.encode(text, add_special_tokens=False).ids for text in asked["named"]]
    tokenizer.encode_special_tokens = True
    return {
        "version": tokenizers.__version__,
        "by_default": by_default,
        "as_text": [tokenizer.encode(text, add_special_tokens=False).ids for text in asked["texts"] + asked["named"]],
        "named": named,
        "decoded": [tokenizer.decode(ids) for ids in asked["samples"]],
        "names": [tokenizer.decode([token], skip_special_tokens=False) for token in asked["special"]],
    }


def sentencepiece(folder: Path, asked: dict[str, Any]) -> Answers:
    """It reads names as text, always, and adds no BOS."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return {
        "version": sentencepiece.__version__,
        "as_text": [processor.Encode(text) for text in asked["texts"] + asked["named"]],
        "decoded": [processor.Decode(ids) for ids in asked["samples"]],
        "names": [processor.IdToPiece(token) for token in asked["special"]],
    }


def lm_eval(folder: Path, asked: dict[str, Any]) -> Answers:
    from importlib.metadata import version

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)

    def request(kind: Any, *arguments: Any) -> list[Any]:
        return [Instance(request_type=kind, doc={}, arguments=arguments, idx=0)]

    pairs = asked["pairs"]
    return {
        "version": version("lm_eval"),
        "by_default": [model.tok_encode(text) for text in asked["texts"]],
        "named": [model.tok_encode(text, add_special_tokens=False) for text in asked["named"]],
        "decoded": [model.tok_decode(ids) for ids in asked["samples"]],
        "names": [model.tok_decode([token], skip_special_tokens=False) for token in asked["special"]],
        "pair_losses": [
            -model.loglikelihood(request("loglikelihood", *pair), disable_tqdm=True)[0][0] for pair in pairs
        ],
        "said": model.generate_until(
            request("generate_until", asked["prompt_text"], {"max_gen_toks": asked["num_new"], "until": ["\0"]}),
            disable_tqdm=True,
        )[0],
    }


def llama_cpp(folder: Path, asked: dict[str, Any]) -> Answers:
    import xllamacpp

    from tests.interop.gguf_file import write_gguf

    path = folder.parent / f"{folder.name}.gguf"
    write_gguf(folder, path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 1
    params.warmup, params.fit_params, params.verbosity = False, False, -1
    # Its default rounds keys, values and what attention adds up to f16, which moves a loss by 1e-4 a token.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)

    def post(place: str, **body: Any) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(server.listening_address + place, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def ids(text: str, **options: bool) -> list[int]:
        return post("/tokenize", content=text, **options)["tokens"]

    def complete(prompt: Sequence[int], n: int, **options: Any) -> Any:
        return post("/completion", prompt=list(prompt), n_predict=n, temperature=0, return_tokens=True, **options)

    def loss(sample: list[int]) -> float:
        """The server gives probabilities beside text alone, so it is made to say a letter; they are those before that."""
        total, a_letter = 0.0, {"n_probs": asked["vocab_size"], "logit_bias": [[asked["letter"], 1e6]]}
        for at in range(1, len(sample)):
            found = complete(sample[:at], 1, **a_letter)["completion_probabilities"][0]["top_logprobs"]
            total -= next(entry["logprob"] for entry in found if entry["id"] == sample[at])
        return total

    return {
        "version": xllamacpp.__version__,
        "by_default": [ids(text, add_special=True) for text in asked["texts"]],
        "as_text": [ids(text, add_special=False, parse_special=False) for text in asked["texts"] + asked["named"]],
        "named": [ids(text, add_special=False, parse_special=True) for text in asked["named"]],
        "decoded": [post("/detokenize", tokens=sample[1:])["content"] for sample in asked["samples"]],
        "names": [post("/detokenize", tokens=[token])["content"] for token in asked["special"]],
        "losses": [loss(sample) for sample in asked["samples"][:1]],
        "greedy": complete(asked["prompt"], asked["num_new"])["tokens"],
    }


def mlx_lm(folder: Path, asked: dict[str, Any]) -> Answers:
    from importlib.metadata import version

    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    model, tokenizer = load(str(folder))
    logs = [nn.log_softmax(model(mx.array([ids]))[0], axis=-1).tolist() for ids in asked["samples"]]
    prompt = mx.array(asked["prompt"])
    said = [int(token) for token, _ in generate_step(prompt, model, max_tokens=asked["num_new"])]
    return {
        "version": version("mlx_lm"),
        "by_default": [tokenizer.encode(text) for text in asked["texts"]],
        "named": [tokenizer.encode(text, add_special_tokens=False) for text in asked["named"]],
        "decoded": [_streamed(tokenizer, ids[1:]) for ids in asked["samples"]],
        "names": [tokenizer.decode([token]) for token in asked["special"]],
        "losses": _losses(logs, asked["samples"]),
        "greedy": said,
    }


def _streamed(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text as mlx-lm writes it, token by token."""
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    for token in ids:
        detokenizer.add_token(token)
    detokenizer.finalize()
    return detokenizer.text


def _losses(logs: Sequence[Sequence[Sequence[float]]], samples: Sequence[Sequence[int]]) -> list[float]:
    """The sum of each sample's losses, in nats, from the logarithms of the probabilities: [samples] [s, v]."""
    return [-sum(log[at][ids[at + 1]] for at in range(len(ids) - 1)) for log, ids in zip(logs, samples, strict=True)]


PROGRAMS: dict[str, Callable[[Path, dict[str, Any]], Answers]] = {
    "transformers": transformers,
    "transformers 4": transformers,
    "tokenizers": tokenizers,
    "SentencePiece": sentencepiece,
    "lm-eval": lm_eval,
    "llama.cpp": llama_cpp,
    "mlx-lm": mlx_lm,
}


def main(program: str, questions: str, answers: str) -> None:
    """Ask a program about each folder, and write what it says."""
    asked = json.loads(Path(questions).read_text(encoding="utf-8"))
    found = {name: PROGRAMS[program](Path(folder), asked) for name, folder in asked["folders"].items()}
    Path(answers).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
