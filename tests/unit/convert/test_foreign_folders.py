"""Folders from elsewhere, made to harm their reader: links to private files, names that are no files, code to run."""

import io
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fanal.errors import FanalError, UserError
from fanal.run_folder import shard_path
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.ours.import_record import KEPT_FILES
from pretrain.convert.theirs.certified import CERTIFICATE
from pretrain.inspect.generate import GenerationRequest, generate
from pretrain.model.sampling import Sampling
from tests.unit.convert.folders import TOKENIZER, edit_config, in_hub_cache
from tokenizer.vocabulary.load import load_tokenizer

ROOT = Path(__file__).parents[3]
V1_TOKENIZER = ROOT / "tests" / "golden" / "formats" / "v1" / "tokenizer"
SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----"
REQUEST = GenerationRequest(prompt="The", max_new_tokens=1, sampling=Sampling(), device="cpu")
OPTIONS = ExportOptions(date="2026-01-01", with_shards=False)
READ_NAMES = ("config.json", *KEPT_FILES, CERTIFICATE)
"""Names of the files that an import reads whole."""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "id_ed25519"
    path.parent.mkdir(mode=0o700)
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


@pytest.fixture
def with_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(TOKENIZER)
    return folder


def replaced_by_link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def holds_secret(folder: Path) -> bool:
    return any(SECRET.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", [*READ_NAMES, "model.safetensors.index.json"])
def test_no_link_carries_a_private_file_into_a_checkpoint(
    name: str, with_tokenizer: Path, tmp_path: Path, key: Path
) -> None:
    replaced_by_link(with_tokenizer / name, key)
    with pytest.raises(
        UserError, match=rf"{name} is a link to {key}, outside of .*, and a link counts only if it ends in"
    ):
        import_hf(with_tokenizer, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", CERTIFICATE])
def test_no_link_is_followed_out_of_a_model_that_generates(name: str, with_tokenizer: Path, key: Path) -> None:
    replaced_by_link(with_tokenizer / name, key)
    with pytest.raises(UserError, match=rf"{name} is a link to {key}, outside of"):
        generate(with_tokenizer, REQUEST, out=io.StringIO())


def test_no_link_is_followed_from_weights(with_tokenizer: Path, tmp_path: Path) -> None:
    shard = next(with_tokenizer.glob("*.safetensors"))
    elsewhere = tmp_path / "elsewhere.safetensors"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    for use in (
        lambda: import_hf(with_tokenizer, tmp_path / "imported"),
        lambda: generate(with_tokenizer, REQUEST, out=io.StringIO()),
    ):
        with pytest.raises(UserError, match=rf"{shard.name} is a link to {elsewhere}") as refusal:
            use()
    advice = re.search(r"`(.*)` puts a copy", str(refusal.value))
    assert advice
    subprocess.run(shlex.split(advice[1]), check=True)
    import_hf(with_tokenizer, tmp_path / "imported")


@pytest.mark.parametrize("name", ["tokenizer-info.json", "tokenizer.model", "tokenizer.json", "spec.yaml"])
def test_no_link_is_followed_out_of_a_tokenizer_s_folder(name: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(V1_TOKENIZER, tmp_path / "tokenizer"))
    replaced_by_link(copy / name, V1_TOKENIZER / name)  # the very bytes: only the rule speaks against it
    with pytest.raises(UserError, match=rf"{name} is a link to {V1_TOKENIZER / name}, outside of"):
        load_tokenizer(copy)
    (tmp_path / "link").symlink_to(V1_TOKENIZER)
    assert load_tokenizer(tmp_path / "link").vocab_size, "the folder itself is the reader's own choice"


def test_a_link_that_ends_in_the_folder_counts(with_tokenizer: Path, tmp_path: Path) -> None:
    (with_tokenizer / "tokenizer.json").rename(with_tokenizer / "real.json")
    (with_tokenizer / "tokenizer.json").symlink_to("real.json")
    made = import_hf(with_tokenizer, tmp_path / "imported")
    assert (made.checkpoint / "imported" / "tokenizer.json").read_text() == TOKENIZER


@pytest.mark.parametrize(
    "target",
    ["../../../models--other--model/blobs/x", "../../blobs/sub/x", "../../refs/x", "../../../x", "../other/x"],
)
def test_a_link_in_a_download_cache_counts_only_into_its_own_blobs(
    with_tokenizer: Path, tmp_path: Path, target: str
) -> None:
    snapshot = in_hub_cache(with_tokenizer, tmp_path / "hub")
    import_hf(snapshot, tmp_path / "imported")
    path = Path(os.path.normpath(snapshot / target))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SECRET)
    replaced_by_link(snapshot / "chat_template.jinja", Path(target))
    with pytest.raises(UserError, match=rf"chat_template.jinja is a link to {path}, outside of"):
        import_hf(snapshot, tmp_path / "again")


def test_blobs_that_are_themselves_a_link_are_no_part_of_the_cache(
    with_tokenizer: Path, tmp_path: Path, key: Path
) -> None:
    snapshot = in_hub_cache(with_tokenizer, tmp_path / "hub")
    model = snapshot.parents[1]
    shutil.copytree(model / "blobs", key.parent, dirs_exist_ok=True)
    shutil.rmtree(model / "blobs")
    (model / "blobs").symlink_to(key.parent)
    (snapshot / "chat_template.jinja").symlink_to(f"../../blobs/{key.name}")
    with pytest.raises(UserError, match=r"is a link to .*, outside of"):
        import_hf(snapshot, tmp_path / "imported")


def test_no_copy_is_readable_by_more_people_than_its_source(with_tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    umask = os.umask(0o022)
    for path in (with_tokenizer, *with_tokenizer.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        open_to_all = import_hf(with_tokenizer, tmp_path / "open").checkpoint
        (with_tokenizer / "tokenizer.json").chmod(0o640)
        for name, change in {
            "of one private file": lambda: None,
            "of a private folder": lambda: with_tokenizer.chmod(0o750),
        }.items():
            change()
            private = import_hf(with_tokenizer, tmp_path / name).checkpoint
            export(private, tmp_path / f"export {name}", OPTIONS)
            files = ["imported/tokenizer.json", shard_path(0), "config.yaml", "import.json"]
            modes = {stat.S_IMODE((private / path).stat().st_mode) for path in files}
            modes |= {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / f"export {name}").iterdir()}
            assert modes == {0o640}
            (with_tokenizer / "tokenizer.json").chmod(0o644)
        assert stat.S_IMODE((open_to_all / "imported" / "tokenizer.json").stat().st_mode) == 0o644
    finally:
        os.umask(umask)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero


def a_large_file_of_nothing(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(10 << 30)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "a pipe": a_pipe, "a device": a_device, "a folder": Path.mkdir, "10 GB of nothing": a_large_file_of_nothing,
}  # fmt: skip
USES = """
import io, os, sys
from pathlib import Path
from fanal.errors import FanalError
from pretrain.convert.importing.import_folder import import_hf
from pretrain.inspect.generate import GenerationRequest, generate
from pretrain.model.sampling import Sampling
from tokenizer.shards.manifest import read_manifest
from tokenizer.vocabulary.load import load_tokenizer
from tests.unit.convert.test_foreign_folders import NO_FILES
folder, tokenizer = Path(sys.argv[1]), Path(sys.argv[2])
request = GenerationRequest(prompt="The", max_new_tokens=1, sampling=Sampling(), device="cpu")
uses = {
    "import": lambda: import_hf(folder, folder.parent / "imported"),
    "generate": lambda: generate(folder, request, out=io.StringIO()),
    "tokenizer": lambda: load_tokenizer(tokenizer),
    "manifest": lambda: read_manifest(tokenizer / "shard"),
}
cases = [(folder, name, ["import", "generate"]) for name in ("config.json", "tokenizer.json", "generation_config.json")]
cases += [(folder, name, ["import"]) for name in ("tokenizer.model", "chat_template.jinja")]
cases += [(folder, name, ["import", "generate"]) for name in ("certificate.json", "model.safetensors.index.json")]
cases += [(tokenizer, name, ["tokenizer"]) for name in ("tokenizer-info.json", "tokenizer.json", "spec.yaml", "tokenizer.model")]
cases += [(tokenizer, "shard.json", ["manifest"])]
for where, name, names in cases:
    path, kept = where / name, where.parent / "kept"
    was_there = path.exists()
    if was_there:
        path.rename(kept)
    for kind, make in NO_FILES.items():
        try:
            make(path)
        except PermissionError:
            continue
        for use in names:
            try:
                uses[use]()
            except FanalError as error:
                print(use, kind, name, "refused" if name in str(error) else error)
            else:
                print(use, kind, name, "was taken")
        path.rmdir() if path.is_dir() else path.unlink()
    if was_there:
        kept.rename(path)
# Of this program alone: ru_maxrss is not lowered by exec, and has the memory of the test process too.
print("highest MiB", int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10)
"""


def test_nothing_in_a_file_s_place_is_waited_for_or_read_without_end(with_tokenizer: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(V1_TOKENIZER, tmp_path / "tokenizer")
    done = subprocess.run(
        [sys.executable, "-c", USES, str(with_tokenizer), str(copy)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, memory = done.stdout.splitlines()
    assert len(lines) >= 51 and not [line for line in lines if not line.endswith(" refused")], done.stdout
    assert int(memory.split()[-1]) < 1500, "torch alone has half of it"


def test_code_that_a_tokenizer_names_is_imported_and_not_published(
    with_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast): pass\n"
    (with_tokenizer / "own.py").write_text(code)
    settings = {
        "auto_map": {"AutoTokenizer": ["own.Own", None]}, "custom_pipelines": {"x": {"impl": "own.Own"}},
        "trust_remote_code": True, "tokenizer_class": "Own", "model_max_length": 77, "unk_token": "<unk>",
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }  # fmt: skip
    (with_tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    made = import_hf(with_tokenizer, tmp_path / "imported")
    assert "names code that its reader may run (auto_map of tokenizer_config.json" in capsys.readouterr().err
    to = tmp_path / "export"
    export(made.checkpoint, to, OPTIONS)
    said = capsys.readouterr().err
    assert "note: the export leaves out auto_map of tokenizer_config.json" in said
    assert [line for line in said.splitlines() if "leaves out" in line][1:] == []

    published = b"".join(path.read_bytes() for path in to.iterdir())
    assert b"auto_map" not in published and b"own.Own" not in published and not list(to.rglob("*.py"))
    kept = json.loads((to / "tokenizer_config.json").read_text())
    assert kept["model_max_length"] == 77 and "chat_template" in kept
    tokenizer = transformers.AutoTokenizer.from_pretrained(to, local_files_only=True, trust_remote_code=True)
    assert tokenizer("The")["input_ids"] == [2]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "The"}], tokenize=False) == "The"
    transformers.AutoModelForCausalLM.from_pretrained(to, local_files_only=True)
    generate(to, REQUEST, out=io.StringIO())
    assert not ran.exists(), "its code ran"


def test_a_tokenizer_of_stock_classes_keeps_its_bytes(with_tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}, indent=7)
    (with_tokenizer / "tokenizer_config.json").write_text(text)
    made = import_hf(with_tokenizer, tmp_path / "imported")
    export(made.checkpoint, tmp_path / "export", OPTIONS)
    assert (tmp_path / "export" / "tokenizer_config.json").read_text() == text


def test_an_import_of_an_earlier_version_that_holds_a_link_is_no_checkpoint(
    with_tokenizer: Path, tmp_path: Path, key: Path
) -> None:
    edit_config(with_tokenizer)
    checkpoint = import_hf(with_tokenizer, tmp_path / "imported").checkpoint
    replaced_by_link(checkpoint / "imported" / "tokenizer.json", key)
    with pytest.raises(FanalError, match=r"imported/tokenizer.json is a link"):
        export(checkpoint, tmp_path / "export", OPTIONS)
    assert not (tmp_path / "export").exists() and not holds_secret(checkpoint.parent / "hf")
