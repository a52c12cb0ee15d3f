import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tokenizer.index import index_bytes
from tokenizer.shards import EncodeOptions, ShardWriter
from tokenizer.verify import verify


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    options = EncodeOptions(append_bos=False, append_eos=False, text_field="text")
    with ShardWriter(tmp_path / "a", vocab_size=70_000, tokenizer_sha256="cd" * 32) as writer:
        for document in ([1, 2, 3], [4, 5], [6], [7, 69_999]):
            writer.add_document(document)
        writer.finish(domain=None, licence=None, source=None, input_files=[], options=options)
    return tmp_path / "a"


def replace(prefix: Path, suffix: str, content: bytes | bytearray, *, with_hash: bool) -> None:
    """Swap a file; with_hash also makes the manifest agree, as a faulty writer would have."""
    Path(f"{prefix}.{suffix}").write_bytes(content)
    if with_hash:
        path = Path(f"{prefix}.json")
        manifest = json.loads(path.read_text()) | {f"{suffix}_sha256": hashlib.sha256(content).hexdigest()}
        path.write_text(json.dumps(manifest))


def test_one_flipped_bit_inside_is_found_by_deep_alone(prefix: Path) -> None:
    content = bytearray(Path(f"{prefix}.bin").read_bytes())
    content[8] ^= 1
    replace(prefix, "bin", content, with_hash=False)
    assert verify([prefix])[0].problem is None
    problem = verify([prefix], deep=True)[0].problem
    assert problem is not None
    assert f"{prefix}.bin has sha256" in problem


def test_one_flipped_bit_in_the_index_is_found_by_deep(prefix: Path) -> None:
    content = bytearray(Path(f"{prefix}.idx").read_bytes())
    content[34 + 4] ^= 1
    replace(prefix, "idx", content, with_hash=False)
    assert f"{prefix}.idx has sha256" in str(verify([prefix], deep=True)[0].problem)


@pytest.mark.parametrize(
    ("token", "message"),
    [(70_000, "holds highest id 70000, expected 69999"), (-2, "holds a negative id in tokens 0 to 7")],
)
def test_an_id_outside_the_vocabulary_is_found_by_deep_though_the_hash_agrees(
    prefix: Path, token: int, message: str
) -> None:
    tokens = np.fromfile(f"{prefix}.bin", dtype="<i4")
    tokens[3] = token
    replace(prefix, "bin", tokens.tobytes(), with_hash=True)
    assert message in str(verify([prefix], deep=True)[0].problem)


def test_lengths_that_do_not_meet_the_offsets_are_found_by_deep_though_the_hash_agrees(prefix: Path) -> None:
    content = bytearray(index_bytes(np.array([3, 2, 1, 2], np.int32), "int32"))
    content[34 + 4 : 34 + 12] = np.array([1, 2], "<i4").tobytes()
    replace(prefix, "idx", content, with_hash=True)
    assert verify([prefix])[0].problem is None
    assert "document lengths that do not lead from one byte offset to the next" in str(
        verify([prefix], deep=True)[0].problem
    )


def test_a_bad_shard_does_not_hide_the_next_one(prefix: Path, tmp_path: Path) -> None:
    missing, good = verify([tmp_path / "none", prefix], deep=True)
    assert missing.problem is not None
    assert "none.json does not exist" in missing.problem
    assert (missing.num_documents, missing.num_tokens) == (None, None)
    assert (good.problem, good.num_documents, good.num_tokens) == (None, 4, 8)
