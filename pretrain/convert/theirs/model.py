"""The exported folder, loaded with `transformers` in fp32 on a CPU: as a whole, or layer by layer where it is too large.

Shapes: s sequence, h hidden, v vocabulary.
"""

import contextlib
import copy
import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from fanal.errors import UserError
from pretrain.convert.ours.model import Point
from pretrain.convert.theirs.weights import INDEX_JSON
from pretrain.model.families.family import HF_EMBEDDING, HF_OUTPUT, Family

SINGLE_NAME = "model.safetensors"
EXTRA = "pip install 'fanal[hf]'"


class CannotLoadError(UserError):
    """Error: `transformers` does not load the folder as expected; the message names the reason."""


class TheirModel(Protocol):
    """The exported model, run over texts in either way."""

    def points(self, texts: Sequence[np.ndarray]) -> Iterator[Point]:
        """Yield the state of every text at each point, like OurModel.points."""
        ...

    def logits(self, text: int, positions: slice) -> torch.Tensor:
        """Return the logits at some positions of a text, like OurModel.logits."""
        ...


def transformers_module() -> Any:
    """Return the module `transformers`. Raises: UserError if it is not installed."""
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"an export is certified with transformers, which cannot be imported ({error}); {EXTRA} installs it"
        ) from None
    library.utils.logging.disable_progress_bar()
    return library


class WholeModel:
    """The model loaded with AutoModelForCausalLM, as a user does. Raises: CannotLoadError."""

    def __init__(self, folder: Path, family: Family) -> None:
        self._family = family
        library = transformers_module()
        with _collect_warnings() as warnings:
            try:
                self._model, info = library.AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # so that they are named: what is found of them is refused below
                    local_files_only=True,
                    trust_remote_code=False,
                )
            except Exception as error:
                raise CannotLoadError(f"transformers cannot load the model: {in_one_line(error)}") from None
        self.warnings = warnings
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            if info.get(kind):
                raise CannotLoadError(f"transformers found {kind}: {', '.join(sorted(map(str, info[kind]))[:3])}")
        self._model.eval()
        self._logits: list[torch.Tensor] = []

    @torch.no_grad()
    def points(self, texts: Sequence[np.ndarray]) -> Iterator[Point]:
        found: dict[str, list[torch.Tensor]] = {}

        def keep(name: str, state: torch.Tensor) -> None:
            found.setdefault(name, []).append(state[0])

        with _hooks(self._model.model, self._family, keep):
            self._logits = [self._model(input_ids=torch.from_numpy(ids)[None]).logits[0] for ids in texts]
        yield from found.items()

    def logits(self, text: int, positions: slice) -> torch.Tensor:
        return self._logits[text][positions]


LayerCall = tuple[torch.Tensor, dict[str, Any]]
"""What a layer is called with: the state, and everything else."""


class _StandIn(torch.nn.Module):
    """In a layer's place: it keeps what the layer would be called with, and gives the state back."""

    def __init__(self, layer: Any, calls: list[LayerCall]) -> None:
        super().__init__()
        self._calls = calls
        if hasattr(layer, "attention_type"):
            self.attention_type = layer.attention_type  # transformers 4 picks a layer's mask by it

    def forward(self, state: torch.Tensor, **others: Any) -> torch.Tensor:
        self._calls.append((state, others))
        return state


class LayerByLayer:
    """The same classes, one layer at a time: filled from the exported files, run on all texts, emptied. Raises: CannotLoadError."""

    def __init__(self, folder: Path, family: Family) -> None:
        library, self._family = transformers_module(), family
        with _collect_warnings() as warnings:
            config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                self._model = library.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        self.warnings = warnings
        _fill_buffers(self._model, config)
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._folder, self._tied = folder, bool(config.tie_word_embeddings)
        self._files = _files_of_tensors(folder)
        self._check_names()
        self._normed: list[torch.Tensor] = []
        self._model.eval()

    def _check_names(self) -> None:
        expected = {name for name in self._model.state_dict() if not (self._tied and name == HF_OUTPUT)}
        for kind, names in (
            ("missing_keys", expected - set(self._files)),
            ("unexpected_keys", set(self._files) - expected),
        ):
            if names:
                raise CannotLoadError(f"transformers found {kind}: {', '.join(sorted(names)[:3])}")

    @torch.no_grad()
    def points(self, texts: Sequence[np.ndarray]) -> Iterator[Point]:
        inner = self._model.model
        with self._filled(inner.embed_tokens, "model.embed_tokens."):
            states = [self._handed(input_ids=torch.from_numpy(ids)[None])[0][0] for ids in texts]
        yield "embedding", [state[0] for state in states]
        for number, layer in enumerate(inner.layers):
            middle: list[torch.Tensor] = []
            after_attention = _state_after_attention(layer, self._family)
            hook = after_attention.register_forward_pre_hook(partial(_keep_input, middle))
            with self._filled(layer, f"model.layers.{number}."):
                states = [_tensor(layer(state, **self._handed(inputs_embeds=state)[number][1])) for state in states]
            hook.remove()
            yield f"layer {number}, attention", [state[0] for state in middle]
            yield f"layer {number}, feed-forward", [state[0] for state in states]
        with self._filled(inner.norm, "model.norm."):
            self._normed = [inner.norm(state)[0] for state in states]
        yield "final norm", self._normed
        head = self._read(HF_EMBEDDING if self._tied else HF_OUTPUT)
        self._model.lm_head.load_state_dict({"weight": head}, assign=True)

    @torch.no_grad()
    def logits(self, text: int, positions: slice) -> torch.Tensor:
        logits = self._model.lm_head(self._normed[text][positions])
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def _handed(self, **text: torch.Tensor) -> list[LayerCall]:
        """Return what the class hands to each of its layers for a text: its first state, and the masks and angles of each layer.

        Args: text: input_ids [1, s], or inputs_embeds [1, s, h], whose values masks and angles do not depend on.
        Masks are made anew for each layer and text, which takes 1.5 to 4 % of the layer's own time at 4,096 tokens and h 1,024: a
        text beyond the window has one of s * s bytes, in Gemma 2 two of s * s * 4, too much for all texts at once.
        """
        calls: list[LayerCall] = []
        layers = self._model.model.layers
        stand_ins = torch.nn.ModuleList(_StandIn(layer, calls) for layer in layers)
        self._model.model.layers, norm = stand_ins, self._model.model.norm
        self._model.model.norm = torch.nn.Identity()
        try:
            self._model.model(**text, use_cache=False)
        finally:
            self._model.model.layers, self._model.model.norm = layers, norm
        return calls

    @contextlib.contextmanager
    def _filled(self, module: torch.nn.Module, prefix: str) -> Iterator[None]:
        """Load a module's values from the files for the duration of a block."""
        try:
            values = {name: self._read(prefix + name) for name in module.state_dict()}
            module.load_state_dict(values, assign=True)
        except RuntimeError as error:
            raise CannotLoadError(f"transformers cannot load {prefix}*: {in_one_line(error)}") from None
        yield
        # Not module.to("meta"), which takes away what is in no file too, such as the scale of an embedding.
        module.load_state_dict({name: value.to("meta") for name, value in values.items()}, assign=True)

    def _read(self, name: str) -> torch.Tensor:
        safetensors = importlib.import_module("safetensors")
        with safetensors.safe_open(self._folder / self._files[name], framework="pt") as file:
            return file.get_tensor(name).float()


def _fill_buffers(model: Any, config: Any) -> None:
    """Give a model on "meta" the values that are in no file and outside its layers, such as rotary frequencies: those of a model
    that is as narrow and as low as they allow."""
    small = copy.deepcopy(config)
    types = list(getattr(config, "layer_types", None) or [])
    height = max((types.index(kind) for kind in set(types)), default=0) + 1
    small.num_hidden_layers, small.intermediate_size, small.vocab_size, small.pad_token_id = height, 1, 1, None
    if types:
        small.layer_types = types[:height]
    there = type(model)(small)
    for name, buffer in there.model.named_buffers():
        if not name.startswith("layers."):
            owner, _, last = name.rpartition(".")
            setattr(model.model.get_submodule(owner), last, buffer)


def _files_of_tensors(folder: Path) -> dict[str, str]:
    if (folder / INDEX_JSON).is_file():
        return json.loads((folder / INDEX_JSON).read_text())["weight_map"]
    safetensors = importlib.import_module("safetensors")
    with safetensors.safe_open(folder / SINGLE_NAME, framework="pt") as file:
        return dict.fromkeys(file.keys(), SINGLE_NAME)


@contextlib.contextmanager
def _hooks(model: Any, family: Family, keep: Any) -> Iterator[None]:
    """Call ``keep`` with the state at every point while the block runs."""
    hooks = [
        # What the first layer is given: some classes scale what the embedding gives.
        model.layers[0].register_forward_pre_hook(
            lambda _m, inputs, others: keep("embedding", inputs[0] if inputs else others["hidden_states"]),
            with_kwargs=True,
        ),
        model.norm.register_forward_hook(lambda _m, _i, output: keep("final norm", output)),
    ]
    for number, layer in enumerate(model.layers):
        attention, feed_forward = f"layer {number}, attention", f"layer {number}, feed-forward"
        hooks += [
            _state_after_attention(layer, family).register_forward_pre_hook(
                lambda _m, inputs, name=attention: keep(name, inputs[0])
            ),
            layer.register_forward_hook(lambda _m, _i, output, name=feed_forward: keep(name, _tensor(output))),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _state_after_attention(layer: Any, family: Family) -> torch.nn.Module:
    """Return the module of a layer whose input is the state after attention."""
    return getattr(layer, family.state_after_attention)


def _keep_input(kept: list[torch.Tensor], _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    kept.append(inputs[0])


def _tensor(output: Any) -> torch.Tensor:
    """Return the tensor that a layer gives: older versions of transformers 4 give a tuple with it."""
    return output[0] if isinstance(output, tuple) else output


@contextlib.contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect the warnings of transformers while the block runs."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    collector, logger = Collector(logging.WARNING), logging.getLogger("transformers")
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)


def in_one_line(error: BaseException) -> str:
    """Return a library's error in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"
