"""The index of a checkpoint reads as it was written; anything else is damage, with its name, and never another error."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fanal.run_folder import SHARDS, TENSORS, shard_path
from pretrain.checkpoint.disk import shard_file, tensors
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.shard_file import header_bytes
from pretrain.checkpoint.disk.tensor_index import (
    IndexedTensor,
    StoredBox,
    TensorIndex,
    boxes_to_text,
    entry_name,
    index_text,
    read_index,
    tensors_from_texts,
)
from pretrain.checkpoint.disk.tensors import open_tensors, read_whole

INDEX = TensorIndex(
    states=("param", "exp_avg", "exp_avg_sq"), num_updates=7, weights_dtype="bfloat16",
    tensors={
        "a.weight": IndexedTensor(
            name="a.weight", shape=(4, 6), weights_sum="0123456789abcdef",
            stored=(
                StoredBox(file=0, box=Box(offset=(0, 0), size=(1, 6))), StoredBox(file=0, box=Box(offset=(1, 0), size=(1, 4))),
                StoredBox(file=1, box=Box(offset=(1, 4), size=(1, 2))), StoredBox(file=1, box=Box(offset=(2, 0), size=(2, 6))),
            ),
        ),
        "b.weight": IndexedTensor(
            name="b.weight", shape=(5,), weights_sum="f" * 16, stored=(StoredBox(file=1, box=Box(offset=(0,), size=(5,))),)
        ),
    },
)  # fmt: skip


def fields() -> dict[str, Any]:
    return json.loads(index_text(INDEX))


def read(folder: Path, content: Any) -> TensorIndex:
    (folder / TENSORS).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_index(folder)


def test_an_index_reads_as_it_was_written(tmp_path: Path) -> None:
    assert read(tmp_path, index_text(INDEX)) == INDEX
    assert len(index_text(INDEX).splitlines()) == 2 + len(INDEX.tensors), "a line a tensor"
    assert "states" not in fields()["tensors"][1], "no word where nothing differs: as before there were fewer states"


def test_a_tensor_that_has_fewer_states_says_so(tmp_path: Path) -> None:
    fewer = replace(INDEX.tensors["b.weight"], states=("param", "exp_avg_sq"))
    index = replace(INDEX, tensors=INDEX.tensors | {"b.weight": fewer})
    assert read(tmp_path, index_text(index)) == index
    assert index.states_of("b.weight") == ("param", "exp_avg_sq") and index.states_of("a.weight") == index.states


def with_tensor(**changes: Any) -> dict[str, Any]:
    found = fields()
    found["tensors"][1] |= changes
    return found


WRONG = {
    "version": (lambda: fields() | {"format_version": 9}, r"format_version \(9\) must be 1"),
    "no version": (lambda: {"tensors": []}, "KeyError"),
    "states": (lambda: fields() | {"states": ["exp_avg"]}, "param one of them"),
    "states twice": (lambda: fields() | {"states": ["param", "param"]}, "must be different"),
    "states no text": (lambda: fields() | {"states": [1]}, "1 must be a string"),
    "adam step": (lambda: fields() | {"adam_step": -1}, "-1 must be an integer from 0"),
    "adam step true": (lambda: fields() | {"adam_step": True}, "True must be an integer from 0"),
    "dtype": (lambda: fields() | {"weights_dtype": "float8"}, r"weights_dtype \('float8'\) must be one of"),
    "dtype a list": (lambda: fields() | {"weights_dtype": []}, "must be one of"),
    "tensor twice": (lambda: with_tensor(name="a.weight"), "a.weight is listed twice"),
    "name": (lambda: with_tensor(name=3), "3 must be a string"),
    "sum": (lambda: with_tensor(weights_sum="12"), r"weights_sum of b.weight \('12'\) must have 16 hexadecimal digits"),
    "sum no text": (lambda: with_tensor(weights_sum=12), "12 must be a string"),
    "states of a tensor": (lambda: with_tensor(states=["exp_avg"]), r"states of b.weight \(\('exp_avg',\)\) must be some of .* param one"),
    "unknown state of a tensor": (lambda: with_tensor(states=["param", "momentum"]), "states of b.weight .* must be some of"),
    "states of a tensor in another order": (lambda: with_tensor(states=["exp_avg", "param"]), "in that order"),
    "states of a tensor no text": (lambda: with_tensor(states=[1]), "1 must be a string"),
    "shape": (lambda: with_tensor(shape=[6]), r"the boxes of b.weight must hold every element of its shape \(6,\) once"),
    "no dimension": (lambda: with_tensor(shape=[], stored=[[0, [], []]]), "must hold every element"),
    "three": (lambda: with_tensor(shape=[1, 1, 5], stored=[[0, [0, 0, 0], [1, 1, 5]]]), "must hold every element"),
    "other dimensions": (lambda: with_tensor(shape=[1, 5]), "must hold every element"),
    "outside": (lambda: with_tensor(stored=[[1, [1], [5]]]), "must hold every element"),
    "a gap": (lambda: with_tensor(stored=[[1, [0], [4]]]), "must hold every element"),
    "an overlap for a gap": (lambda: with_tensor(stored=[[0, [0], [3]], [1, [1], [2]]]), "must hold every element"),
    "negative": (lambda: with_tensor(stored=[[1, [-1], [5]]]), "-1 must be an integer from 0"),
    "rank": (lambda: with_tensor(stored=[["1", [0], [5]]]), "'1' must be an integer"),
    "a box of two": (lambda: with_tensor(stored=[[1, [0]]]), "ValueError"),
    "no json": (lambda: "{", "JSONDecodeError"),
    "a list": (lambda: "[]", "TypeError"),
    "deep": (lambda: "[" * 100_000, "RecursionError"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_index_is_refused_by_name(tmp_path: Path, case: str) -> None:
    make, complaint = WRONG[case]
    with pytest.raises(DamagedCheckpointError, match=f"{TENSORS} is not an index of tensors .*{complaint}"):
        read(tmp_path, make())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_any_field_is_damage_or_an_index(tmp_path: Path, data: st.DataObject) -> None:
    content = fields()
    place: Any = content
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(JSON)
        break
    try:
        assert isinstance(read(tmp_path, content), TensorIndex)
    except DamagedCheckpointError:
        return


def test_ranks_that_do_not_hold_a_tensor_once_over_are_an_error_of_ours() -> None:
    whole, half = Box(offset=(0,), size=(4,)), Box(offset=(0,), size=(2,))
    first, second = StoredBox(file=0, box=half), StoredBox(file=3, box=half.moved((2,)))
    found = tensors_from_texts([boxes_to_text([("a", (4,), first)]), boxes_to_text([("a", (4,), second)])])
    assert found == {"a": ((4,), [first, second])}
    for box in (half, whole):
        wrong = StoredBox(file=3, box=box)
        with pytest.raises(AssertionError, match="do not hold every element of a"):
            tensors_from_texts([boxes_to_text([("a", (4,), first)]), boxes_to_text([("a", (4,), wrong)])])
    with pytest.raises(AssertionError, match="on one rank"):
        tensors_from_texts([boxes_to_text([("a", (4,), first)]), boxes_to_text([("a", (5,), second)])])


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The files of INDEX, and what they hold."""
    random = np.random.default_rng(1)
    held = {
        f"{tensor.name}/{state}": random.standard_normal(tensor.shape, np.float32)
        for tensor in INDEX.tensors.values()
        for state in INDEX.states
    }
    (tmp_path / SHARDS).mkdir()
    (tmp_path / TENSORS).write_text(index_text(INDEX))
    for rank in (0, 1):
        parts = [
            (entry_name(tensor.name, state, part.box), held[f"{tensor.name}/{state}"][slices(part.box)])
            for state in INDEX.states
            for tensor in INDEX.tensors.values()
            for part in tensor.stored
            if part.file == rank
        ]
        head = header_bytes((name, values.shape) for name, values in parts)
        (tmp_path / shard_path(rank)).write_bytes(head + b"".join(values.tobytes() for _, values in parts))
    return tmp_path, held


def slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(box.offset, box.size, strict=True))


def test_whole_tensors_come_from_the_files_of_all_ranks(checkpoint: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, held = checkpoint
    found = dict(read_whole(folder))
    assert list(found) == list(held) and all(np.array_equal(found[name], held[name]) for name in held)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_box_of_a_tensor_is_read_whoever_wrote_it(
    checkpoint: tuple[Path, dict[str, np.ndarray]], data: st.DataObject
) -> None:
    folder, held = checkpoint
    offset = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 5)))
    size = data.draw(st.tuples(st.integers(1, 4 - offset[0]), st.integers(1, 6 - offset[1])))
    box, out = Box(offset=offset, size=size), np.full(size, np.nan, np.float32)
    with open_tensors(folder) as reader:
        reader.read("a.weight", "exp_avg", box, out)
    assert np.array_equal(out, held["a.weight/exp_avg"][slices(box)])


def test_more_files_than_a_process_may_have_open_are_read_all_the_same(
    checkpoint: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, held = checkpoint
    monkeypatch.setattr(tensors, "MAX_OPEN_FILES", 1)
    with open_tensors(folder) as reader:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for name in held:
            assert np.array_equal(reader.read_all(*name.split("/")), held[name])
            assert len(list(Path("/proc/self/fd").iterdir())) == before + 1


def test_no_room_for_another_open_file_is_no_damage(
    checkpoint: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(shard_file, "open_plain_file", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        dict(read_whole(checkpoint[0]))


def test_what_is_not_there_is_named(checkpoint: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = checkpoint
    with open_tensors(folder) as reader:
        with pytest.raises(DamagedCheckpointError, match="has no tensor nothing"):
            reader.read("nothing", "param", Box(offset=(0,), size=(5,)), np.empty(5, np.float32))
        with pytest.raises(DamagedCheckpointError, match=r"holds 5 of the 6 elements of b.weight/param"):
            reader.read("b.weight", "param", Box(offset=(0,), size=(6,)), np.empty(6, np.float32))
        with pytest.raises(DamagedCheckpointError, match=r"has no entry a.weight/other@0,0"):
            reader.read_all("a.weight", "other")
    (folder / shard_path(1)).unlink()
    with pytest.raises(DamagedCheckpointError, match=r"rank-00001.safetensors cannot be read"):
        dict(read_whole(folder))
