"""Exports with a fault planted, several in one process: what became of each."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

from fanal.errors import exit_code_of
from pretrain.checkpoint.disk.boxes import Box
from pretrain.convert.exporting import export as to_hf
from pretrain.convert.exporting.export import ExportOptions, export, summary
from pretrain.convert.ours.names import HfTensor

DATE = "2026-11-24"
Plant = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Case:
    """One export."""

    name: str
    checkpoint: str
    to: str
    options: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    fault: tuple[Any, ...] = ()
    """Name of a function here, and its arguments."""


def run_exports(cases: Sequence[Case], results: str) -> int:
    """Export each case; write what became of it as JSON: {name: {code, text, is_there, has_part}}."""
    torch.set_num_threads(1)
    found = {}
    for case in cases:
        name, *arguments = case.fault or ("no_fault",)
        code, text = 0, ""
        with globals()[name](*arguments):
            try:
                options = ExportOptions(**{"date": DATE, **case.options})
                text = summary(export(case.checkpoint, case.to, options, case.overrides))
            except Exception as error:
                code, text = exit_code_of(error), str(error)
                if code == 70:
                    text = traceback.format_exc()
        part = Path(f"{case.to}.part")
        found[case.name] = {
            "code": code,
            "text": text,
            "is_there": Path(case.to).is_dir() and any(Path(case.to).iterdir()),
            "has_part": part.exists(),
        }
        Path(results).write_text(json.dumps(found))
    return 0


@contextlib.contextmanager
def no_fault() -> Iterator[None]:
    yield


def mapped(change: Callable[[HfTensor], HfTensor | None]) -> contextlib.AbstractContextManager[Any]:
    """Write other rows of our tensors than the mapping says; leave a tensor out where ``change`` gives None."""
    real = to_hf.hf_tensors

    def planted(*args: Any, **kwargs: Any) -> list[HfTensor]:
        changed = [change(tensor) for tensor in real(*args, **kwargs)]
        return [tensor for tensor in changed if tensor is not None]

    return mock.patch.object(to_hf, "hf_tensors", planted)


def query_and_key_rows_swapped(layer: str) -> contextlib.AbstractContextManager[Any]:
    """The first head of the first group and the group's key head change places."""
    kept: dict[str, HfTensor] = {}
    attention = f"model.layers.{layer}.self_attn."

    def change(tensor: HfTensor) -> HfTensor:
        kept[tensor.name] = tensor
        if tensor.name == f"{attention}q_proj.weight":
            first, *rest = tensor.boxes
            head = first.size[0] // 2  # two query heads a group in the tests' model
            key = Box(offset=(first.offset[0] + first.size[0], 0), size=(head, first.size[1]))
            second = Box(offset=(first.offset[0] + head, 0), size=(head, first.size[1]))
            return dataclasses.replace(tensor, boxes=(key, second, *rest))
        if tensor.name == f"{attention}k_proj.weight":
            first, *rest = tensor.boxes
            query = kept[f"{attention}q_proj.weight"].boxes[0]
            return dataclasses.replace(tensor, boxes=(Box(offset=query.offset, size=first.size), *rest))
        return tensor

    return mapped(change)


def groups_interleaved_wrongly(layer: str) -> contextlib.AbstractContextManager[Any]:
    """Key and value heads in another order than the query heads they serve."""

    def change(tensor: HfTensor) -> HfTensor:
        if tensor.name.startswith(tuple(f"model.layers.{layer}.self_attn.{kind}_proj" for kind in "kv")):
            return dataclasses.replace(tensor, boxes=(*tensor.boxes[::2], *tensor.boxes[1::2]))
        return tensor

    return mapped(change)


def vocabulary_off_by_one(name: str) -> contextlib.AbstractContextManager[Any]:
    """Every token gets the row of the next one."""

    def change(tensor: HfTensor) -> HfTensor:
        if tensor.name != name:
            return tensor
        return dataclasses.replace(tensor, boxes=(tensor.boxes[0].moved((1, 0)),))

    return mapped(change)


def gate_and_up_swapped(layer: str) -> contextlib.AbstractContextManager[Any]:
    def change(tensor: HfTensor) -> HfTensor:
        rows = tensor.boxes[0].size[0]
        if tensor.name == f"model.layers.{layer}.mlp.gate_proj.weight":
            return dataclasses.replace(tensor, boxes=(tensor.boxes[0].moved((rows, 0)),))
        if tensor.name == f"model.layers.{layer}.mlp.up_proj.weight":
            return dataclasses.replace(tensor, boxes=(tensor.boxes[0].moved((-rows, 0)),))
        return tensor

    return mapped(change)


def a_tensor_left_out(name: str) -> contextlib.AbstractContextManager[Any]:
    return mapped(lambda tensor: None if tensor.name == name else tensor)


def config_says(key: str, value: str) -> contextlib.AbstractContextManager[Any]:
    """Another value in config.json; the rotary base at both of its places."""
    real = to_hf.hf_config

    def planted(*args: Any, **kwargs: Any) -> dict[str, Any]:
        content = {**real(*args, **kwargs), key: json.loads(value)}
        if key in ("rope_theta", "partial_rotary_factor"):
            content["rope_parameters"] = {**content["rope_parameters"], key: content[key]}
        return content

    return mock.patch.object(to_hf, "hf_config", planted)


def rows_moved(name: str) -> contextlib.AbstractContextManager[Any]:
    """A tensor has its rows in another order: the last block comes first."""

    def change(tensor: HfTensor) -> HfTensor:
        return (
            dataclasses.replace(tensor, boxes=(tensor.boxes[-1], *tensor.boxes[:-1])) if tensor.name == name else tensor
        )

    return mapped(change)


def rotary_factor_of(value: float) -> contextlib.AbstractContextManager[Any]:
    """Another factor of the rotary scaling, at both of its places."""
    real = to_hf.hf_config

    def planted(*args: Any, **kwargs: Any) -> dict[str, Any]:
        content = real(*args, **kwargs)
        return content | {key: content[key] | {"factor": value} for key in ("rope_scaling", "rope_parameters")}

    return mock.patch.object(to_hf, "hf_config", planted)


def after_writing(act: Callable[[Path], None]) -> contextlib.AbstractContextManager[Any]:
    """Change what was written, before it is certified."""
    real = to_hf.write_export

    def planted(part: Path, *args: Any, **kwargs: Any) -> Any:
        entries = real(part, *args, **kwargs)
        act(part)
        return entries

    return mock.patch.object(to_hf, "write_export", planted)


def norm_set_to_one(name: str) -> contextlib.AbstractContextManager[Any]:
    def act(part: Path) -> None:
        tensors = load_file(part / "model.safetensors")
        tensors[name] = torch.ones_like(tensors[name])
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})

    return after_writing(act)


def tokenizer_of(folder: str) -> contextlib.AbstractContextManager[Any]:
    """tokenizer.json of another vocabulary."""
    return after_writing(
        lambda part: (part / "tokenizer.json").write_bytes((Path(folder) / "tokenizer.json").read_bytes())  # type: ignore[arg-type,return-value]
    )


def special_names_are_split() -> contextlib.AbstractContextManager[Any]:
    """tokenizer_config.json with split_special_tokens, which no chat template survives."""

    def act(part: Path) -> None:
        path = part / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"split_special_tokens": True}))

    return after_writing(act)


def special_tokens_decode_to_nothing() -> contextlib.AbstractContextManager[Any]:
    """tokenizer.json with the decoder of the tokenizer's own file."""

    def act(part: Path) -> None:
        path = part / "tokenizer.json"
        content = json.loads(path.read_text())
        drop = {"type": "Replace", "pattern": {"Regex": r"\A(?:<s>|</s>)\z"}, "content": ""}
        content["decoder"]["decoders"].insert(0, drop)
        path.write_text(json.dumps(content))

    return after_writing(act)


def killed_in_the_second_file() -> contextlib.AbstractContextManager[Any]:
    real = to_hf.write_file

    def planted(part: Path, file: Any, *args: Any, **kwargs: Any) -> Any:
        if file.name.startswith("model-00002"):
            (part / file.name).write_bytes(file.header)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(part, file, *args, **kwargs)

    return mock.patch.object(to_hf, "write_file", planted)


def space_looks_enough() -> contextlib.AbstractContextManager[Any]:
    """The disk fills up after the look at it, as another program may fill it."""
    return mock.patch.object(to_hf, "check_target", lambda *args, **kwargs: None)


def no_transformers() -> contextlib.AbstractContextManager[Any]:
    return mock.patch.dict("sys.modules", {"transformers": None})


def deleted_by_its_run() -> contextlib.AbstractContextManager[Any]:
    """The checkpoint is gone when its weights are to be read."""
    real = to_hf.open_tensors

    def too_late(folder: Path) -> Any:
        shutil.rmtree(folder)
        return real(folder)

    return mock.patch.object(to_hf, "open_tensors", too_late)


@contextlib.contextmanager
def weights_in_place_of_their_average() -> Iterator[None]:
    """An export that was asked for the moving average writes the weights."""
    write = to_hf.write_file
    with mock.patch.object(to_hf, "write_file", lambda *args, **kwargs: write(*args, **kwargs | {"state": "param"})):
        yield
