"""Every file that a command writes has the mode that umask says."""

import os
import stat
from pathlib import Path

import pytest

from tokenizer.encoding.encode import encode
from tokenizer.shards.labels import Labels
from tokenizer.vocabulary.spec import load_spec
from tokenizer.vocabulary.train import train_tokenizer


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) & 0o666 for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(("umask", "expected"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_a_tokenizer_and_its_shards_have_the_mode_of_umask(
    umask: int, expected: int, tmp_path: Path, tokenizer_dir: Path, corpus: Path, write_documents
) -> None:
    documents = write_documents(tmp_path / "a.jsonl", ["the cat sat on the mat"] * 50)
    before = os.umask(umask)
    try:
        (tmp_path / "new").mkdir()
        train_tokenizer(load_spec(tokenizer_dir / "spec.yaml"), [corpus / "train"], tmp_path / "new" / "tokenizer")
        encode(tokenizer_dir, [documents], tmp_path / "new" / "shard", labels=Labels())
    finally:
        os.umask(before)
    assert modes(tmp_path / "new") == {expected}
    assert not list((tmp_path / "new").glob("*.part"))
