"""Hugging Face folders with tokenizers of the kinds that language models have, trained in seconds on the tests' own corpus.

The patterns of the pre-tokenizers are the real ones: of meta-llama/Meta-Llama-3-8B, of Qwen/Qwen2.5-7B, and of GPT-2, which OLMo's
and SmolLM's use. Nothing else of those files is here.
"""

import gzip
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

CORPUS = Path(__file__).parent / "corpus"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
MORE = (
    "L'été, déjà là: où? Straße, İstanbul, 日本語と中文、한국어, العربية עברית, 👩\u200d👩\u200d👧 🇫🇷 x\u00b2 \ufb01. ",
    "e\u0301 \u1e9b\u0323 ",
)
"""What an English corpus lacks."""


@cache
def corpus_texts() -> tuple[str, ...]:
    """The documents of the tests' corpus, and some words of other languages."""
    lines = [line for path in sorted(CORPUS.rglob("*.gz")) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return (*(json.loads(line)["text"] for line in lines), *(MORE * 20))


def byte_level(
    *, pattern: str | None, special: list[str], added: list[str] = (), vocab_size: int = 900, normalizer: Any = None,
    digits: bool = False, ignore_merges: bool = False, bos: str | None = None,
) -> Any:  # fmt: skip
    """A byte-level BPE of the library `tokenizers`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges, unk_token=special[0] if digits else None))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pattern is not None:
        first: Any = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(False, use_regex=False)])
    elif digits:
        first = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(False)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=special if digits else [],
    )  # fmt: skip
    tokenizer.train_from_iterator(corpus_texts(), trainer)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def write_folder(folder: Path, tokenizer: Any, config: dict[str, Any], model_type: str) -> Path:
    """The files that a model's folder has of its tokenizer."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=3))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def llama3(folder: Path) -> Path:
    """BOS in front of each text, special tokens behind the vocabulary, merges that whole words go past."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|reserved_special_token_0|>"]
    tokenizer = byte_level(pattern=LLAMA3, special=special, ignore_merges=True, bos=special[0])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1],
        "clean_up_tokenization_spaces": True, "model_max_length": 8192,
    }  # fmt: skip
    (write_folder(folder, tokenizer, config, "llama") / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": special[0], "eos_token": {"content": special[1], "lstrip": False}})
    )
    return folder


def qwen(folder: Path, model_type: str = "qwen3", *, vocab_size: int = 900) -> Path:
    """No BOS, padding that is EOS, NFC, added tokens that are not special, a chat template."""
    from tokenizers import normalizers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    added = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
    tokenizer = byte_level(
        pattern=QWEN, special=special, added=added, normalizer=normalizers.NFC(), vocab_size=vocab_size
    )
    kind = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": special[0], "pad_token": special[0],
        "unk_token": None, "add_bos_token": False, "add_prefix_space": False, "split_special_tokens": False,
        "additional_special_tokens": special[1:],
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(name)): {"content": name, **kind, "special": name in special} for name in special + added
        },
    }  # fmt: skip
    write_folder(folder, tokenizer, config, model_type)
    (folder / "chat_template.jinja").write_text(CHAT)
    vocabulary = dict(sorted(tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda entry: entry[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    return folder


def olmo(folder: Path) -> Path:
    """Runs of spaces as added tokens that are not special, and padding of its own."""
    special = ["<|endoftext|>", "<|padding|>"]
    tokenizer = byte_level(pattern=None, special=special, added=[" " * width for width in range(24, 1, -1)])
    config = {
        "tokenizer_class": "GPTNeoXTokenizer",
        "bos_token": None,
        "eos_token": special[0],
        "pad_token": special[1],
    }
    return write_folder(folder, tokenizer, config, "olmo2")


def smollm(folder: Path, name: str = "PreTrainedTokenizerFast") -> Path:
    """Digits cut one by one, which gigatoken does not read; special tokens inside the vocabulary; one token for BOS, EOS and the
    unknown, which no text gets.

    Args: name: of the class in its config; by that of GPT-2, which SmolLM's has, transformers 5 cuts text by GPT-2's rules.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    tokenizer = byte_level(pattern=None, special=special, digits=True)
    config = {"tokenizer_class": name, "bos_token": special[0], "eos_token": special[0], "unk_token": special[0]}
    return write_folder(folder, tokenizer, config, "llama")


SENTENCEPIECE: dict[str, Any] = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
    "tokenizer_class": "PreTrainedTokenizerFast",
}  # fmt: skip


@cache
def sentencepiece_model(kind: str) -> bytes:
    """A model as Llama 1's and 2's (bpe), or one that normalizes (unigram)."""
    model = io.BytesIO()
    lines = [line for text in corpus_texts() for line in text.splitlines() if line]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_writer=model, model_type=kind, vocab_size=1200, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity" if kind == "bpe" else "nmt_nfkc",
        remove_extra_whitespaces=kind == "unigram", allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2,
        pad_id=-1, character_coverage=0.999, num_threads=2, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def spm_model(folder: Path, kind: str = "bpe", **config: Any) -> Path:
    """A folder with a tokenizer.model and no tokenizer.json."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(kind))
    (folder / "tokenizer_config.json").write_text(json.dumps(SENTENCEPIECE | config))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def spm_json(folder: Path, kind: str = "bpe", **config: Any) -> Path:
    """The same as a tokenizer.json, as transformers converts it."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(spm_model(folder, kind, **config)).save_pretrained(folder)
    (folder / "tokenizer.model").unlink()
    return folder


def llama2(folder: Path) -> Path:
    """The tokenizer.json of Llama 2's time: a normalizer writes the space in front."""
    path = spm_json(folder, tokenizer_class="LlamaTokenizer") / "tokenizer.json"
    steps: list[dict[str, Any]] = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    content = json.loads(path.read_text()) | {
        "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": steps},
    }
    path.write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(SENTENCEPIECE))
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "Llama 3's kind": llama3,
    "Qwen's kind": qwen,
    "OLMo's kind": olmo,
    "SmolLM's kind": smollm,
    "Llama 2's kind": llama2,
    "SentencePiece BPE, converted": spm_json,
    "SentencePiece BPE of Llama's class, converted": lambda folder: spm_json(folder, tokenizer_class="LlamaTokenizer"),
    "SentencePiece Unigram, converted": lambda folder: spm_json(folder, "unigram"),
    "SentencePiece BPE": spm_model,
    "SentencePiece Unigram": lambda folder: spm_model(folder, "unigram"),
}
