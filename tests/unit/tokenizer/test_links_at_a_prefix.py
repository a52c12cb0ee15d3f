"""Links that a colleague left beside the prefix of a shard, in a folder that he may write to: what they lead to stays as it is."""

import os
from functools import partial
from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.part_folder import part_folder
from tests.two_users import colleague, needs_two_users, share, shared_place
from tokenizer.shards.shard import EncodeOptions
from tokenizer.shards.writer import ShardWriter

OPTIONS = EncodeOptions(append_bos=False, append_eos=False, text_field=None)


@pytest.mark.parametrize("ending", ["lock.part", "bin.part", "idx.part", "json.part", "lengths.part", "order.part"])
def test_a_shard_is_not_written_through_a_link(ending: str, tmp_path: Path) -> None:
    precious = tmp_path / "key"
    precious.write_text("private")
    (tmp_path / f"a.{ending}").symlink_to(precious)
    try:
        with ShardWriter(tmp_path / "a", vocab_size=100, tokenizer_sha256="ab" * 32) as writer:
            writer.add_document([1, 2, 3])
            writer.finish(domain=None, licence=None, source=None, input_files=[], options=OPTIONS)
        assert (tmp_path / "a.json").is_file() and not (tmp_path / "a.json").is_symlink()
    except UserError as error:
        assert ending == "lock.part" and f"it is a link to {precious}" in str(error)
    assert precious.read_text() == "private"


@needs_two_users
@pytest.mark.parametrize("theirs", ["mkdir -m 777 out.part", "ln -s ../mine out.part"])
def test_a_folder_is_not_written_into_that_of_a_colleague(theirs: str) -> None:
    with shared_place() as place:
        folder = share(place / "shared")
        (place / "mine").mkdir()
        assert colleague(theirs, folder).returncode == 0
        final = folder / "out"
        with (
            pytest.raises(UserError, match=r"out.part belongs to user 65534|cannot be written"),
            part_folder(final, name="--to", act="export", error=UserError, is_ours=lambda path: True) as part,
        ):
            (part / "file").write_text("mine")
        assert list((place / "mine").iterdir()) == []


def test_a_file_system_that_shows_another_owner_of_what_is_made_there_takes_a_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_as = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: shown_as + 1)
    folder = partial(part_folder, name="--to", act="export", error=UserError, is_ours=lambda path: True)
    with folder(tmp_path / "out") as part:
        (part / "file").write_text("mine")
    (tmp_path / "out.part").mkdir()
    refused = pytest.raises(UserError, match=rf"out.part belongs to user {shown_as}")
    with refused, folder(tmp_path / "out"):
        pass
