"""The order in which a GPU's streams are told to wait, by what is asked of torch.cuda; a CPU's copies are done at once."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from pretrain.parallel import side_stream as module
from pretrain.parallel.side_stream import InOrder, side_stream


def test_a_copy_waits_for_the_main_stream_and_the_main_stream_for_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    main = SimpleNamespace(wait_event=lambda mark: told.append(f"main waits for {mark}"))

    def record() -> str:
        told.append("side is marked")
        return "the mark"

    side = SimpleNamespace(
        wait_stream=lambda stream: told.append("side waits for main" if stream is main else "side waits for another"),
        record_event=record,
    )

    @contextmanager
    def stream(one: object):
        told.append("on side" if one is side else "on another")
        yield
        told.append("off")

    cuda = SimpleNamespace(Stream=lambda device: side, current_stream=lambda: main, stream=stream)
    monkeypatch.setattr(module, "torch", SimpleNamespace(cuda=cuda))
    copies = side_stream(torch.device("cuda", 0))
    copies.wait(copies.start(lambda: told.append("copy")))
    assert told == [
        "side waits for main",
        "on side",
        "copy",
        "off",
        "side is marked",
        "main waits for the mark",
    ]


def test_a_device_without_streams_has_copied_when_it_is_asked_to() -> None:
    copies, done = side_stream(torch.device("cpu")), []
    assert isinstance(copies, InOrder)
    mark = copies.start(lambda: done.append("copy"))
    assert done == ["copy"]
    copies.wait(mark)
