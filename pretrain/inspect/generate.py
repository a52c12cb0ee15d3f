"""``pretrain generate``: continue a prompt with a model."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import torch

from fanal.errors import PassingError, UserError
from fanal.host_memory import host_memory
from fanal.output import result_output
from pretrain.convert.open_model import OpenModel, open_model
from pretrain.model.families.sizes import num_parameters
from pretrain.model.inference import InferenceDecoder
from pretrain.model.sampling import Sampler, Sampling
from pretrain.optim.registry import EMA, MASTER
from pretrain.parallel.device_type import resolve_device

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""The character a tokenizer writes for bytes that are no complete character yet."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A request for text: the prompt and how to continue it."""

    prompt: str
    max_new_tokens: int
    sampling: Sampling
    device: Literal["auto", "cuda", "cpu"] = "auto"


def generate(
    path: str | Path,
    request: GenerationRequest,
    *,
    tokenizer: str | None = None,
    deep: bool = False,
    ema: bool = False,
    out: TextIO | None = None,
) -> list[int]:
    """Write the prompt and its continuation as it is generated, then on standard error how it ended and its speed.

    Args: ema, whether the moving average of a checkpoint's weights is taken in their place; out, where the text goes; None is
        standard output, whose terminal obeys nothing in it.
    Weights are float32 on a CPU and bfloat16 on a GPU, rounded from the masters of a checkpoint.
    Returns: the new tokens, the one that ends the text left out.
    Raises: UserError for a path, tokenizer or request that is not valid; DamagedCheckpointError.
    """
    if request.max_new_tokens < 1:
        raise UserError(f"max_new_tokens ({request.max_new_tokens}) must be above 0; 64 works")
    device = torch.device(resolve_device(request.device, name="--device", between=" "))
    with open_model(path, tokenizer=tokenizer, deep=deep, weights_state=EMA if ema else MASTER) as opened:
        ids = prompt_ids(opened, request.prompt)
        decoder = load_decoder(opened, device)
    room = min(request.max_new_tokens, opened.max_length - len(ids))
    check_room(decoder, ids, room, request.max_new_tokens)
    started = time.perf_counter()
    tokens = new_tokens(decoder, ids, room, Sampler(request.sampling), opened.codec.eos_ids)
    stream: TextIO = out or result_output()
    stream.write(request.prompt)
    found = write_text(tokens, ids, opened.codec.decode, stream)
    elapsed_s = time.perf_counter() - started
    stream.write("\n")
    stream.flush()
    if len(found) < room:
        end = "the text ended"
    else:
        end = (
            "max_new_tokens"
            if room == request.max_new_tokens
            else f"the model's longest sequence, {opened.max_length:,} tokens"
        )
    print(
        f"{len(found)} tokens after {len(ids)}, {len(found) / elapsed_s:,.1f} tokens/s on {device.type} in "
        f"{str(decoder.dtype).removeprefix('torch.')}; ended by: {end}; {opened.folder}",
        file=sys.stderr,
    )
    return found


def load_decoder(opened: OpenModel, device: torch.device) -> InferenceDecoder:
    """Load the weights into memory: float32 on a CPU, bfloat16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    check_weights(opened, device, dtype)
    return InferenceDecoder(opened.model, opened.read, vocab_size=opened.vocab_size, device=device, dtype=dtype)


def check_weights(opened: OpenModel, device: torch.device, dtype: torch.dtype) -> None:
    """Check, before they are loaded, that the weights fit in memory. Raises: UserError; PassingError if it is only taken now."""
    needed = num_parameters(opened.model) * dtype.itemsize
    free, total = torch.cuda.mem_get_info(device) if device.type == "cuda" else _host()
    if needed > free:
        raise (UserError if needed > total else PassingError)(
            f"{opened.folder} has {num_parameters(opened.model):,} parameters, which take {needed:,} bytes in "
            f"{str(dtype).removeprefix('torch.')}, and of {total:,} bytes of memory {free:,} are free ({device.type}); a machine "
            "with more memory works"
        )


def _host() -> tuple[int, int]:
    memory = host_memory()
    return memory.available_bytes, memory.total_bytes


def prompt_ids(opened: OpenModel, prompt: str) -> list[int]:
    """Return the ids of a prompt, as the start of a document.

    Raises: UserError if the prompt is not text, or has no tokens, too many, or one that the model does not know.
    """
    if any(
        "\ud800" <= letter <= "\udfff" for letter in prompt
    ):  # how Python keeps bytes of an argument that are not UTF-8
        raise UserError(f"prompt ({prompt!r}) must be text in UTF-8; 'The' works")
    text = opened.codec.encode(prompt)
    if not text:
        raise UserError(f"prompt ({prompt!r}) gives no tokens; 'The' works")
    ids = [*opened.codec.first_ids, *text]
    if max(ids) >= opened.model.vocab_size:
        raise UserError(
            f"the tokenizer gives id {max(ids)}, which must be from 0 to {opened.model.vocab_size - 1} for the model of "
            f"{opened.folder}: it belongs to another model; give the folder of this model's tokenizer with --tokenizer DIR"
        )
    if len(ids) >= opened.max_length:
        raise UserError(
            f"prompt ({len(ids):,} tokens) must be shorter than the model's longest sequence ({opened.max_length:,} tokens), so "
            f"that at least one token can follow; {opened.max_length - 1:,} tokens work"
        )
    return ids


def check_room(decoder: InferenceDecoder, ids: list[int], room: int, max_new_tokens: int) -> None:
    """Check, before it is allocated, that the KV cache fits in memory. Raises: UserError."""
    device = decoder.device
    available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_memory().available_bytes
    needed = (len(ids) + room) * decoder.position_bytes
    if needed > available:
        works = max(1, int(0.9 * available) // decoder.position_bytes - len(ids))
        raise UserError(
            f"max_new_tokens ({max_new_tokens:,}) needs a cache of {needed:,} bytes for {len(ids) + room:,} tokens, and "
            f"{available:,} bytes are available ({device.type}); {works} works"
        )


def new_tokens(
    decoder: InferenceDecoder, ids: list[int], max_new_tokens: int, sampler: Sampler, eos_ids: frozenset[int]
) -> Iterator[int]:
    """Yield tokens, at most ``max_new_tokens``, until one ends the text, which is not yielded. One device sync each."""
    cache = decoder.new_cache(len(ids) + max_new_tokens)
    ahead = ids
    for _ in range(max_new_tokens):
        logits = decoder.logits(torch.tensor([ahead]), cache, last_only=True)
        token = sampler.choose(logits[0, -1])
        if token in eos_ids:
            return
        yield token
        ahead = [token]


def write_text(tokens: Iterable[int], ids: list[int], decode: Callable[[list[int]], str], out: TextIO) -> list[int]:
    """Write the text of tokens that follow ``ids``, each character once it is complete. Returns: the tokens."""
    found: list[int] = []
    shown = len(decode(ids))
    for token in tokens:
        found.append(token)
        text = decode([*ids, *found])
        if not text.endswith(INCOMPLETE):
            out.write(text[shown:])
            out.flush()
            shown = max(shown, len(text))
    out.write(decode([*ids, *found])[shown:])
    return found
