"""What ranks send each other: texts of any kind, and plain values; an object that names a function is refused."""

import os
import pickle
from pathlib import Path

import pytest
import torch.distributed as dist

from pretrain.config.schema import RunConfig
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.texts import gather_texts, share_text
from pretrain.parallel.world import open_world
from tests.dist.harness import PRELOAD, make_run
from tests.runs.cases import DP2

SHARED = (None, "", "text", "ünï\n\x00 code", os.fsdecode(b"a name \xff that is no text"), "long " * 100_000)
GATHERED = (("", ""), ("one", ""), ("", "the other"), ("short", "much longer " * 1000), (os.fsdecode(b"\xff"), "é"))


class Evil:
    """An object whose reader makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self._path,))


def exchange(run: RunConfig, marker: Path) -> int:
    """One rank."""
    with open_world(run.parallel, seed=1) as world:
        for text in SHARED:
            assert share_text(text if world.rank == 0 else "another", world) == text
        for texts in GATHERED:
            assert gather_texts(texts[world.rank], world) == (list(texts) if world.rank == 0 else None)
        plain: list[object] = [None, None]
        dist.all_gather_object(plain, [(("lr", 0.5), True), None])
        assert plain == [[(("lr", 0.5), True), None]] * 2
        with pytest.raises(
            pickle.UnpicklingError, match=r"an object of another rank names posix.mkdir; between ranks only plain"
        ):
            dist.all_gather_object(plain, Evil(marker))
        assert not marker.exists()
    return 0


def test_texts_arrive_as_they_are_and_an_object_that_calls_a_function_is_refused(
    small_run: Path, tmp_path: Path
) -> None:
    code, failure = run_local_ranks(
        exchange, make_run(small_run, tmp_path, *DP2), tmp_path / "made",
        preload=PRELOAD, num_ranks=2, device_type="cpu", log_dir=tmp_path / "logs",
    )  # fmt: skip
    assert code == 0, failure
