"""``fanal verify EXPORT``: every flipped bit, every file that was cut, added, renamed or taken away is found and named."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fanal.console import Console
from fanal.errors import DamageError
from fanal.records import own_hash
from pretrain.__main__ import cli
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.ours.tokenizer_files import json_bytes
from pretrain.convert.theirs import certified as certified_module
from pretrain.convert.theirs.certified import (
    Certified,
    DamagedExportError,
    describe_linked,
    parse_certificate,
    read_certified,
)
from pretrain.inspect.verify_export import summary, verify_export
from tests.runs.flips import flipped
from tests.unit.convert.conftest import V1
from tests.unit.convert.folders import in_hub_cache

WEIGHTS = "model.safetensors"
SEED = 7
NOT_PARSED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What ``read_certified`` turns into damage."""


def verified(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["verify", str(folder), *options])


def certificate_of(folder: Path) -> Certified:
    found = read_certified(folder)
    assert found is not None
    return found


def unfound_flips(text: bytes) -> Iterator[tuple[int, int]]:
    """Places and bits of a certificate whose flip nothing finds."""
    for place, byte in enumerate(text):
        for bit in range(8):
            other = text[:place] + bytes([byte ^ 1 << bit]) + text[place + 1 :]
            try:
                parse_certificate(other)
            except NOT_PARSED:
                continue
            yield place, bit


def test_an_export_is_verified_and_its_certificate_is_summed_up(exported: Path) -> None:
    done = verified(exported)
    assert done.exit_code == 0 and "every byte as certified" in done.stdout, done.output
    assert "certificate: same model as step 8 of checkpoint step-00000008 (manifest b7be0bdeb824)" in done.stdout
    assert "certified on 2026-01-01" in done.stdout and done.stderr == ""


def test_every_flipped_bit_of_the_certificate_is_found(exported: Path) -> None:
    text = (exported / "certificate.json").read_bytes()
    parse_certificate(text)
    assert list(unfound_flips(text)) == []


def test_comparing_the_content_alone_would_miss_some(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1e-05 and 1E-05 are one number: so bytes are compared, and the test above can fail."""
    path = exported / "certificate.json"
    content = json.loads(path.read_text()) | {"bound": 1e-05}
    path.write_bytes(json_bytes(content | {"certificate_sha256": own_hash(content, "certificate_sha256")}))
    place = path.read_bytes().index(b"1e-05") + 1
    with flipped(path, place, 5), pytest.raises(DamagedExportError, match=r"its bytes are not"):
        read_certified(exported)
    monkeypatch.setattr(certified_module, "json_bytes", lambda _: path.read_bytes())
    with flipped(path, place, 5):
        assert b"1E-05" in path.read_bytes() and read_certified(exported) is not None


def test_every_flipped_byte_of_the_small_files_is_found(exported: Path) -> None:
    found = certificate_of(exported)
    for name, entry in found.entries.items():
        for place in range(entry.bytes) if name != WEIGHTS else ():
            with (
                flipped(exported / name, place, place % 8),
                pytest.raises(DamagedExportError, match=rf"{name} has .* it changed after the export"),
            ):
                found.compare([describe_linked(exported, name)])
    found.check()


def test_flipped_bits_of_the_weights_are_found_wherever_they_are(exported: Path) -> None:
    found, size = certificate_of(exported), (exported / WEIGHTS).stat().st_size
    draw = random.Random(SEED)
    places = {0, 1, 8, size - 1, *(draw.randrange(size) for _ in range(200))}
    for place in places:
        with flipped(exported / WEIGHTS, place, draw.randrange(8)), pytest.raises(DamagedExportError, match=WEIGHTS):
            found.compare([describe_linked(exported, WEIGHTS)])
    found.check()


def swap(folder: Path) -> None:
    (folder / "config.json").rename(folder / "kept")
    (folder / "generation_config.json").rename(folder / "config.json")
    (folder / "kept").rename(folder / "generation_config.json")


def in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


WAYS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "weights, one byte less": (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 1), (WEIGHTS,)),
    "weights, cut to nothing": (lambda f: os.truncate(f / WEIGHTS, 0), (WEIGHTS,)),
    "weights, one byte more": (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size + 1), (WEIGHTS,)),
    "card, cut": (lambda f: os.truncate(f / "README.md", 100), ("README.md",)),
    "certificate, cut": (lambda f: os.truncate(f / "certificate.json", 1000), ("certificate.json",)),
    "certificate, cut to nothing": (lambda f: os.truncate(f / "certificate.json", 0), ("certificate.json",)),
    "certificate, the last byte": (
        lambda f: os.truncate(f / "certificate.json", (f / "certificate.json").stat().st_size - 1), ("certificate.json",),
    ),
    "card, gone": (lambda f: (f / "README.md").unlink(), ("README.md",)),
    "config, gone": (lambda f: (f / "config.json").unlink(), ("config.json",)),
    "weights, renamed": (lambda f: (f / WEIGHTS).rename(f / "weights.safetensors"), (WEIGHTS, "weights.safetensors")),
    "configs, swapped": (swap, ("config.json", "generation_config.json")),
    "two files, one flipped and one gone": (
        lambda f: ((f / "config.json").write_text("{}"), (f / "tokenizer.model").unlink()), ("config.json", "tokenizer.model"),
    ),
    "an index, added": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), ("model.safetensors.index.json",)),
    "a text, added": (lambda f: (f / "LICENSE").write_text("mine"), ("LICENSE",)),
    "a hidden file, added": (lambda f: (f / ".hidden").write_text(""), (".hidden",)),
    "a file in a folder, added": (lambda f: ((f / "a" / "b").mkdir(parents=True), (f / "a" / "b" / "c").write_text("")), ("a/b/c",)),
    "an empty folder, added": (lambda f: (f / "empty").mkdir(), ("empty",)),
    "a link, added": (lambda f: (f / "link").symlink_to("config.json"), ("link",)),
    "config, a folder": (lambda f: in_place_of(f / "config.json", Path.mkdir), ("config.json",)),
    "config, a pipe": (lambda f: in_place_of(f / "config.json", os.mkfifo), ("config.json",)),
    "config, a link that leads nowhere": (
        lambda f: in_place_of(f / "config.json", lambda path: path.symlink_to("nowhere")), ("config.json",),
    ),
    "config, a link to the very bytes elsewhere": (
        lambda f: (
            shutil.copy(f / "config.json", f.parent / "config.json"),
            in_place_of(f / "config.json", lambda path: path.symlink_to("../config.json")),
        ),
        ("config.json",),
    ),
    "certificate, a folder": (lambda f: in_place_of(f / "certificate.json", Path.mkdir), ("certificate.json",)),
    "certificate, an array": (lambda f: (f / "certificate.json").write_text("[]"), ("certificate.json",)),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_was_done_to_an_export_ends_with_76_and_names_the_files(way: str, exported: Path) -> None:
    spoil, names = WAYS[way]
    spoil(exported)
    done = verified(exported)
    assert done.exit_code == 76, done.output
    said = done.stderr.splitlines()
    assert len(said) == len(names) and all(line.startswith("error: ") for line in said), done.stderr
    assert all(any(f"{exported / name} " in line for line in said) for name in names), done.stderr


def test_without_its_own_hash_a_certificate_of_today_is_none(exported: Path) -> None:
    path = exported / "certificate.json"
    content = json.loads(path.read_text())
    del content["certificate_sha256"]
    path.write_bytes(json_bytes(content))
    with pytest.raises(DamagedExportError, match=r"it has other keys than one of version 2: 'certificate_sha256'"):
        read_certified(exported)
    path.write_bytes(json_bytes(content | {"format_version": 3}))
    with pytest.raises(DamagedExportError, match=r"its format_version is 3, and this version of Fanal reads 1, 2"):
        read_certified(exported)


def test_a_folder_of_another_program_cannot_be_checked_and_says_so(exported: Path) -> None:
    (exported / "certificate.json").unlink()
    done = verified(exported)
    assert (
        done.exit_code == 2 and "must have a certificate.json, as an export of Fanal has, and has none" in done.stderr
    )


def test_an_export_of_the_first_version_is_checked_but_for_the_figures_of_its_certificate(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(V1 / "export", tmp_path / "export"))
    done = verified(folder)
    assert done.exit_code == 0, done.output
    assert "certificate.json has no hash of its own, since an earlier version wrote it" in done.stdout
    with flipped(folder / WEIGHTS, 5000, 3):
        assert verified(folder).exit_code == 76
    (folder / "more.json").write_text("{}")
    assert verified(folder).exit_code == 76


def test_a_flipped_bit_of_a_certificate_without_a_hash_is_found_or_does_no_harm() -> None:
    text = (V1 / "export" / "certificate.json").read_bytes()
    found = 0
    for place, byte in enumerate(text):
        try:
            entries, content = parse_certificate(text[:place] + bytes([byte ^ 1 << place % 8]) + text[place + 1 :])
        except NOT_PARSED:
            found += 1
            continue
        assert summary(Certified(V1 / "export", entries, content))
    assert 0.2 < found / len(text) < 1


def test_what_the_hub_and_signers_add_is_not_missed(exported: Path) -> None:
    (exported / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    metadata = exported / ".cache" / "huggingface" / "download" / "config.json.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("1\n")
    (exported / "certificate.json.sig").write_text("not looked at\n")
    assert verified(exported).exit_code == 0


def test_a_download_cache_of_links_is_verified(exported: Path, tmp_path: Path) -> None:
    links = in_hub_cache(exported, tmp_path)
    assert verified(links).exit_code == 0
    with flipped(links / WEIGHTS, 3000, 0):
        assert verified(links).exit_code == 76


def test_a_file_that_a_reader_opens_may_not_be_added_and_the_two_ways_on_work(exported: Path, tmp_path: Path) -> None:
    (exported / "LICENSE").write_text("mine")
    import_hf(exported, tmp_path / "with a text")
    (exported / "adapter_config.json").write_text("{}")
    refusal = rf"{exported}/adapter_config.json is not named by certificate.json: it was added after the export; move it elsewhere"
    for words in (
        ["generate", str(exported), "--prompt", "A"],
        ["import", str(exported), "--to", str(tmp_path / "no")],
    ):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 76 and re.search(refusal, done.output), done.output
    (exported / "adapter_config.json").rename(tmp_path / "adapter_config.json")
    import_hf(exported, tmp_path / "moved")
    shutil.copy(tmp_path / "adapter_config.json", exported)
    (exported / "certificate.json").unlink()
    import_hf(exported, tmp_path / "without certificate")


def test_bytes_are_counted_as_they_are_read(exported: Path) -> None:
    found, counted = certificate_of(exported), []
    assert found.problems(on_bytes=counted.append) == []
    assert sum(counted) == sum(entry.bytes for entry in found.entries.values())


def test_a_hash_that_is_not_looked_at_would_be_noticed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: a reader that answers what the certificate says."""
    found = certificate_of(exported)
    monkeypatch.setattr(certified_module, "describe_linked", lambda _, name, **options: found.entries[name])
    with flipped(exported / WEIGHTS, 5000, 3):
        assert verify_export(exported, Console())[1] == []
    monkeypatch.undo()
    with flipped(exported / WEIGHTS, 5000, 3):
        (problem,) = verify_export(exported, Console())[1]
    assert WEIGHTS in problem and issubclass(DamagedExportError, DamageError)
