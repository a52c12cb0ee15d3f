"""What a model is opened by, where its bytes are not those that were written."""

from pathlib import Path

import pytest

from fanal.run_folder import DATA
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.convert.open_model import _tokenizer_sha256


@pytest.mark.parametrize("content", [b"{\xaa", b"{", b"[]", b"3", b"{}", b"[" * 100_000])
def test_a_damaged_record_of_the_data_is_damage(content: bytes, tmp_path: Path) -> None:
    assert _tokenizer_sha256(tmp_path) is None
    (tmp_path / DATA).write_bytes(b'{"tokenizer_sha256": "ab"}')
    assert _tokenizer_sha256(tmp_path) == "ab"
    (tmp_path / DATA).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"data.json is not the data position of a checkpoint"):
        _tokenizer_sha256(tmp_path)
