"""``fanal verify EXPORT --run RUN_DIR``: this model came from this run on this data, link by link, and no false link passes."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fanal.console import Console
from fanal.errors import FanalError
from fanal.exit_codes import DAMAGED, FINISHED, WRONG_INPUT
from fanal.records import own_hash
from fanal.run_folder import COMPLETE, MANIFEST, ORIGIN
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.manifest import Manifest, describe, manifest_bytes, parse_manifest, seal_text
from pretrain.checkpoint.disk.origin import origin_of, origin_text, sealed_hash
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.ours.tokenizer_files import json_bytes
from pretrain.inspect import lineage as lineage_module
from pretrain.inspect.verify import verify as verify_checkpoints
from pretrain.inspect.verify_json import verify_json
from tests.golden.formats.kept import GEMMA3, LLAMA, V1, KeptRun
from tests.runs.flips import flipped
from tests.runs.ssh_keys import make_key, public_key


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptRun:
    """A run with its shards and export, in the folder that its relative paths count from."""
    copy = LLAMA.copied(tmp_path / "llama")
    monkeypatch.chdir(copy.folder)
    return copy


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> KeptRun:
    """A run that began with another one's checkpoint, and an export of today's code."""
    copy = LLAMA.copied(tmp_path_factory.mktemp("fresh") / "llama")
    add_origin(copy.checkpoint, V1.checkpoint)
    shutil.rmtree(copy.export)
    options = ExportOptions(date="2026-01-01", with_shards=False, adds_bos=True)
    export(copy.run_dir, copy.export, options, [f"data.tokenizer={copy.tokenizer}"])
    return copy


@pytest.fixture
def with_origin(fresh: KeptRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptRun:
    copy = fresh.copied(tmp_path / "llama")
    monkeypatch.chdir(copy.folder)
    return copy


def add_origin(checkpoint: Path, before: Path) -> None:
    """Write that a run began with a checkpoint, and seal it anew."""
    origin = origin_of(before, step=8, init_from=str(before), init_optimizer="keep")
    (checkpoint / ORIGIN).write_text(origin_text(origin))
    manifest = parse_manifest((checkpoint / MANIFEST).read_bytes(), checkpoint)
    content = manifest_bytes(Manifest(step=manifest.step, files=(*manifest.files, describe(checkpoint, ORIGIN))))
    (checkpoint / MANIFEST).write_bytes(content)
    (checkpoint / COMPLETE).write_text(seal_text(content))


def verified(kept: KeptRun, *options: object, run: Path | None = None) -> Result:
    words = ["verify", str(kept.export), "--run", str(run or kept.run_dir), *map(str, options)]
    return CliRunner().invoke(cli, words)


def rewrite(certificate: Path, change: Callable[[dict], object]) -> None:
    """Forge a certificate: other content, and its hash."""
    content = json.loads(certificate.read_text())
    change(content)
    certificate.write_bytes(json_bytes(content | {"certificate_sha256": own_hash(content, "certificate_sha256")}))


@pytest.mark.parametrize("options", [(), ("--deep",)])
def test_every_link_from_the_export_to_the_shards_is_shown(kept: KeptRun, options: tuple[str, ...]) -> None:
    for run in (kept.run_dir, kept.checkpoint):
        done = verified(kept, *options, run=run)
        assert done.exit_code == 0 and done.stderr == "", done.output
        lines = [line.partition(":")[0] for line in done.stdout.splitlines()[3:]]
        assert lines == ["certificate", "checkpoint", "data", "shard", "shard"], done.stdout
        assert "data: data.json of manifest 9410692a83f7: 32 samples of 32 tokens" in done.stdout
        assert re.search(r"shard: shards/train-code, identity \w{12}: 21 samples of 32", done.stdout)


def test_the_certificate_of_today_has_the_data_of_this_run_and_of_the_one_before(with_origin: KeptRun) -> None:
    data = json.loads((with_origin.export / "certificate.json").read_text())["data"]
    assert [part["manifest_sha256"] for part in data] == [
        sealed_hash(with_origin.checkpoint),
        sealed_hash(V1.checkpoint),
    ]
    assert [len(part["shards"]) for part in data] == [2, 2] and "prefix" not in json.dumps(data)
    kept_data = json.loads((V1.checkpoint / "data.json").read_text())
    assert [shard["identity"] for shard in data[1]["shards"]] == [source["identity"] for source in kept_data["sources"]]
    done = verified(with_origin, "--shards", V1.folder / "shards", "--deep")
    assert done.exit_code == 0, done.output
    lines = [line.partition(":")[0] for line in done.stdout.splitlines()[3:]]
    assert lines == ["certificate", "checkpoint", "data", "shard", "shard", "data before", "shard", "shard"]


def test_a_certificate_that_states_other_data_than_its_checkpoint_is_refused(with_origin: KeptRun) -> None:
    certificate = with_origin.export / "certificate.json"
    rewrite(certificate, lambda content: content["data"][1]["shards"][0].update(identity="0" * 64))
    done = verified(with_origin, "--without-shards")
    assert done.exit_code == 76 and "states other data than" in done.stderr, done.output


@pytest.mark.parametrize("name", ["tokenizer_sha256", "manifest_sha256"])
def test_a_certificate_that_names_another_tokenizer_or_checkpoint_is_refused(name: str, kept: KeptRun) -> None:
    rewrite(kept.export / "certificate.json", lambda content: content["checkpoint"].update({name: "0" * 64}))
    done = verified(kept)
    assert done.exit_code == 76 and "000000000000" in done.stderr, done.output


def test_shards_that_were_moved_are_asked_for_and_found_where_the_message_says(kept: KeptRun, tmp_path: Path) -> None:
    moved = Path(shutil.move(kept.folder / "shards", tmp_path / "elsewhere"))
    done = verified(kept)
    assert done.exit_code == 2 and "shards/train-code.json does not exist; --shards FOLDER names" in done.stderr
    assert verified(kept, "--shards", moved).exit_code == 0
    (moved / "notes.json").write_text("{}")
    assert verified(kept, "--shards", tmp_path).exit_code == 0
    without = verified(kept, "--without-shards")
    assert without.exit_code == 0 and "shard:" not in without.stdout
    done = verified(kept, "--shards", tmp_path / "nowhere")
    assert done.exit_code == 2 and "--shards (" in done.stderr


def test_shards_with_each_other_s_names_are_found_out(kept: KeptRun) -> None:
    for end in ("bin", "idx", "json"):
        code, prose = (kept.folder / "shards" / f"train-{name}.{end}" for name in ("code", "prose"))
        code.rename(kept.folder / "kept")
        prose.rename(code)
        (kept.folder / "kept").rename(prose)
    done = verified(kept)
    assert done.exit_code == 76 and done.stderr.count("and the checkpoint has read") == 2, done.output
    assert verified(kept, "--shards", kept.folder / "shards").exit_code == 0, "the advice of the message"


def test_another_run_is_not_the_one(kept: KeptRun, tmp_path: Path) -> None:
    done = verified(kept, run=GEMMA3.run_dir)
    assert done.exit_code == 76 and "it is not the checkpoint that was exported, or it changed since" in done.stderr
    done = verified(kept, run=V1.run_dir)
    assert done.exit_code == 2 and "must be a run's folder that holds step-00000004" in done.stderr
    done = verified(kept, run=tmp_path)
    assert done.exit_code == 2, done.output
    done = verified(kept, run=V1.checkpoint)
    assert done.exit_code == 76, done.output


def test_a_flipped_bit_at_any_link_is_found(kept: KeptRun) -> None:
    """Of the files that name others every byte is read; tensors and tokens take --deep."""
    shards = kept.folder / "shards"
    small = [kept.checkpoint / name for name in ("COMPLETE", "manifest.json", "data.json", "config.yaml", "state.json")]
    small += [shards / "train-code.json", kept.export / "certificate.json", kept.export / "config.json"]
    for path in small:
        for place in {0, path.stat().st_size // 3, path.stat().st_size // 2, path.stat().st_size - 2}:
            with flipped(path, place, 1):
                done = verified(kept)
                assert done.exit_code == 76, (path, place, done.output)
    for path in (
        kept.checkpoint / "shards" / "rank-00000.safetensors",
        shards / "train-code.bin",
        shards / "train-code.idx",
    ):
        with flipped(path, path.stat().st_size // 2, 1):
            done = verified(kept, "--deep")
            assert done.exit_code == 76, (path, done.output)
    assert verified(kept, "--deep").exit_code == 0


def test_a_shard_whose_identity_is_not_looked_at_would_be_noticed(
    kept: KeptRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: one shard in the place of another passes where identities are not compared."""
    for end in ("bin", "idx", "json"):
        shutil.copy(kept.folder / "shards" / f"train-prose.{end}", kept.folder / "shards" / f"train-code.{end}")
    assert verified(kept).exit_code == 76
    monkeypatch.setattr(lineage_module, "_differences", lambda *_: ())
    assert verified(kept).exit_code == 0


def test_other_documents_on_the_same_tokens_are_found_where_they_mattered(kept: KeptRun) -> None:
    """A run with document masks keeps the hash of the index."""
    shard = lineage_module.ReadShard(identity="", num_tokens=1, train_tokens=1, cursor=1, idx_sha256="0" * 64)
    manifest = lineage_module.read_manifest(kept.folder / "shards" / "train-code")
    same = dataclasses.replace(shard, identity=lineage_module.shard_identity(manifest))
    (problem,) = lineage_module._differences(manifest, same, Path("p"))
    assert "its index has another hash" in problem
    assert not [
        *lineage_module._differences(manifest, dataclasses.replace(same, idx_sha256=manifest.idx_sha256), Path("p"))
    ]


def test_run_is_for_exports_and_shards_are_for_run(kept: KeptRun) -> None:
    done = CliRunner().invoke(cli, ["verify", str(kept.checkpoint), "--run", str(kept.run_dir)])
    assert done.exit_code == 2 and "--run needs an export" in done.stderr
    done = CliRunner().invoke(cli, ["verify", str(kept.export), "--without-shards"])
    assert done.exit_code == 2 and "--run RUN_DIR works with them" in done.stderr


def test_what_is_signed_stays_what_it_is_and_is_verified_in_one_command(kept: KeptRun, tmp_path: Path) -> None:
    """An export with its run and data, a checkpoint, a shard, a JSON file: ``fanal sign``, then ``verify --public-key``."""
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    ledger = tmp_path / "ledger.json"
    ledger.write_text('{"tokens": 5}\n')
    paths = {
        kept.export: kept.export / "certificate.json", kept.checkpoint: kept.checkpoint / "manifest.json",
        kept.folder / "shards" / "train-code": kept.folder / "shards" / "train-code.json", ledger: ledger,
    }  # fmt: skip
    for path, file in paths.items():
        checked = ["verify", str(path), "--public-key", str(public_key(key))]
        done = CliRunner().invoke(cli, checked)
        assert done.exit_code == 76 and f"{file} has no signature" in done.stderr, done.output
        done = CliRunner().invoke(cli, ["sign", str(path), "--key", str(key)])
        assert done.exit_code == 0 and done.output == f"signed {file}: {file}.sig\n", done.output
        done = CliRunner().invoke(cli, checked)
        assert done.exit_code == 0 and f"signature: {file}.sig is good, by SHA256:" in done.stdout, done.output
        done = CliRunner().invoke(cli, [*checked[:3], str(public_key(other))])
        assert done.exit_code == 76 and "expected SHA256:" in done.stderr, done.output
        with flipped(file, file.stat().st_size - 4, 0):
            assert CliRunner().invoke(cli, checked).exit_code == 76
    assert verified(kept, "--public-key", public_key(key), "--deep").exit_code == 0
    assert verify_checkpoints(kept.run_dir, True, Console()) == [], "a signature is no strange file"


@pytest.mark.parametrize(
    ("what", "place"),
    [("export", "export/model.safetensors"), ("checkpoint/checkpoints/step-00000004", "state.json"), ("shards/train-code", "shards/train-code.json")],
)  # fmt: skip
def test_nothing_damaged_is_signed(what: str, place: str, kept: KeptRun, tmp_path: Path) -> None:
    file = kept.folder / (f"{what}/{place}" if place == "state.json" else place)
    with flipped(file, 40, 0):
        done = CliRunner().invoke(cli, ["sign", what, "--key", str(make_key(tmp_path / "key"))])
    assert done.exit_code == 76 and not list(kept.folder.rglob("*.sig")), done.output


def test_what_cannot_be_signed_names_what_can(kept: KeptRun, tmp_path: Path) -> None:
    key = str(make_key(tmp_path / "key"))
    done = CliRunner().invoke(cli, ["sign", str(kept.run_dir), "--key", key])
    assert done.exit_code == 2 and (works := re.search(r"its newest checkpoint, (\S+), works", done.output)), (
        done.output
    )
    assert CliRunner().invoke(cli, ["sign", works[1], "--key", key]).exit_code == 0
    done = CliRunner().invoke(cli, ["sign", str(tmp_path / "nothing"), "--key", key])
    assert done.exit_code == 2 and "must be an export's folder" in done.output
    (tmp_path / "broken.json").write_text("{")
    assert CliRunner().invoke(cli, ["sign", str(tmp_path / "broken.json"), "--key", key]).exit_code == 76


def test_every_flipped_bit_of_a_file_with_a_hash_of_itself_is_found(tmp_path: Path) -> None:
    path, content = (
        tmp_path / "ledger.json",
        {"run": "é", "tokens": 12, "share": 1e-07, "hosts": ["a", None], "known": True},
    )
    path.write_bytes(json_bytes(content | {"ledger_sha256": own_hash(content, "ledger_sha256")}))
    text = path.read_bytes()

    def exit_code() -> int:
        try:
            return DAMAGED if verify_json(path, Console(), may_have_none=False) else FINISHED
        except FanalError as error:
            return error.exit_code

    assert exit_code() == FINISHED
    key = range(text.index(b'"ledger_sha256"'), text.index(b'"ledger_sha256"') + len(b'"ledger_sha256"'))
    codes = {False: set(), True: set()}
    for place in range(len(text)):
        for bit in range(8):
            with flipped(path, place, bit):
                codes[place in key].add(exit_code())
    assert codes == {False: {DAMAGED}, True: {DAMAGED, WRONG_INPUT}}, "under another key it is no hash of itself"
    assert exit_code() == FINISHED


def test_a_file_without_a_hash_of_itself_takes_a_signature(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    done = CliRunner().invoke(cli, ["verify", str(tmp_path / "notes.json")])
    assert done.exit_code == 2 and "--public-key FILE.pub checks its signature" in done.output
