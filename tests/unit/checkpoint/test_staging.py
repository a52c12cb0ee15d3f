"""The memory that a save is copied to: in the order of the file, shared by its descriptor, gone when it is closed."""

import os

import numpy as np
import torch

from pretrain.checkpoint.content import LocalBox
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.saving.staging import NOTE_BYTES, Staging

STATES = ("param", "exp_avg")


def box_of(name: str, count: int) -> LocalBox:
    states = {state: torch.arange(count, dtype=torch.float32) + 100 * number for number, state in enumerate(STATES, 1)}
    return LocalBox(tensor=name, shape=(count,), box=Box(offset=(0,), size=(count,)), states=states)


def shared(staging: Staging) -> np.ndarray:
    return np.frombuffer(os.pread(staging.descriptor, staging.num_bytes, 0), np.float32)


def test_all_of_a_state_lies_before_the_next_and_a_second_fill_replaces_the_first() -> None:
    boxes = [box_of("a", 3), box_of("b", 2)]
    staging = Staging([boxes], STATES, torch.device("cpu"))
    assert staging.num_bytes == 5 * 2 * 4
    staging.fill()
    assert shared(staging).tolist() == [100, 101, 102, 100, 101, 200, 201, 202, 200, 201]
    boxes[0].states["exp_avg"].fill_(7)
    staging.fill()
    assert shared(staging).tolist() == [100, 101, 102, 100, 101, 7, 7, 7, 200, 201]
    staging.close()


def test_every_file_begins_at_a_border_of_pages() -> None:
    staging = Staging([[box_of("a", 3)], [box_of("b", 1024), box_of("c", 1)], []], STATES, torch.device("cpu"))
    assert staging.ranges == [(0, 24), (4096, 4096 + 8200), (16384, 16384)] and staging.num_bytes == 16384
    staging.fill()
    found = shared(staging)
    assert found[:6].tolist() == [100, 101, 102, 200, 201, 202] and found[1024:1026].tolist() == [100, 101]
    assert found[2048:2050].tolist() == [100, 200], "b and c of the first state, then b of the second"
    staging.close()


def test_a_note_of_any_length_lies_behind_the_numbers_and_leaves_them() -> None:
    staging = Staging([[box_of("a", 3)]], STATES, torch.device("cpu"))
    staging.fill()
    for text in (b"short", b"x" * (3 * NOTE_BYTES), b"", b"short again"):
        start, length = staging.note(text)
        assert start == staging.num_bytes and os.pread(staging.descriptor, length, start) == text
        assert shared(staging).tolist() == [100, 101, 102, 200, 201, 202]
    staging.close()


def test_a_rank_without_a_part_has_an_empty_one() -> None:
    staging = Staging([[]], STATES, torch.device("cpu"))
    staging.fill()
    assert staging.num_bytes == 0 and staging.note(b"note") == (0, 4)
    staging.close()


def test_nothing_is_left_open_after_many() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    Staging([[box_of("a", 3)]], STATES, torch.device("cpu")).close()
    before = count()
    for _ in range(20):
        staging = Staging([[box_of("a", 1000)]], STATES, torch.device("cpu"))
        staging.fill()
        staging.close()
    assert count() == before
