"""An export is compared with its certificate before anything is made of it."""

import io
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pretrain.__main__ import cli
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.theirs.certified import DamagedExportError
from pretrain.inspect.generate import GenerationRequest, generate
from pretrain.model.sampling import Sampling
from tests.unit.convert.folders import in_hub_cache
from tokenizer.shards.manifest import DamagedShardError

V1 = Path(__file__).parents[2] / "golden" / "formats" / "v1"
REQUEST = GenerationRequest(prompt="A", max_new_tokens=1, sampling=Sampling(), device="cpu")
FILES = (
    "README.md", "certificate.json", "config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
)  # fmt: skip


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_an_export_has_these_files(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_refused_by_its_name(name: str, exported: Path, tmp_path: Path) -> None:
    flip(exported / name, len((exported / name).read_bytes()) // 2)
    for use in (
        lambda: generate(exported, REQUEST, out=io.StringIO()),
        lambda: import_hf(exported, tmp_path / "imported"),
    ):
        with pytest.raises(DamagedExportError, match=rf"{name} .*; copy the folder again"):
            use()
    assert not (tmp_path / "imported").exists()


def test_the_commands_end_with_76_and_one_line(exported: Path, tmp_path: Path) -> None:
    flip(exported / "model.safetensors", -1)
    for words in (["generate", str(exported), "--deep"], ["import", str(exported), "--to", str(tmp_path / "imported")]):
        done = CliRunner().invoke(cli, [*words, *(["--prompt", "A"] if words[0] == "generate" else [])])
        assert done.exit_code == 76 and done.output.startswith(f"error: {exported}/model.safetensors has "), done.output
        assert done.output.count("\n") == 1


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_file_that_is_gone_is_named_and_a_card_is_not_missed(name: str, exported: Path, tmp_path: Path) -> None:
    (exported / "README.md").unlink()
    generate(exported, REQUEST, out=io.StringIO())
    (exported / name).unlink()
    with pytest.raises(ValueError, match=name):
        import_hf(exported, tmp_path / "imported")


def test_a_download_cache_of_links_is_followed(exported: Path, tmp_path: Path) -> None:
    links = in_hub_cache(exported, tmp_path)
    generate(links, REQUEST, out=io.StringIO())
    flip(links / "model.safetensors", -1)
    with pytest.raises(DamagedExportError, match=r"0a1b2c/model.safetensors has"):
        generate(links, REQUEST, out=io.StringIO())


def test_a_folder_without_a_certificate_is_used_and_says_so(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(exported, REQUEST, out=io.StringIO())
    assert "certificate" not in capsys.readouterr().err
    (exported / "certificate.json").unlink()
    flip(exported / "README.md", 0)
    generate(exported, REQUEST, out=io.StringIO())
    assert f"note: {exported} has no certificate.json" in capsys.readouterr().err
    import_hf(exported, tmp_path / "imported")
    assert f"note: {exported} has no certificate.json" in capsys.readouterr().err


def test_a_tokenizer_folder_that_is_an_export_is_compared_too(exported: Path) -> None:
    generate(V1 / "export", REQUEST, tokenizer=str(exported), out=io.StringIO())
    flip(exported / "tokenizer.json", 50)
    with pytest.raises(DamagedExportError, match=r"tokenizer.json has"):
        generate(V1 / "export", REQUEST, tokenizer=str(exported), out=io.StringIO())


def test_a_certificate_of_the_version_before_is_read_and_one_that_names_files_elsewhere_is_not(
    tmp_path: Path,
) -> None:
    exported = Path(shutil.copytree(V1 / "export", tmp_path / "export"))
    path = exported / "certificate.json"
    content = json.loads(path.read_text())
    assert "certificate_sha256" not in content
    path.write_text(json.dumps(content))
    generate(exported, REQUEST, out=io.StringIO())
    content["files"][0]["path"] = "../x"
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedExportError, match=r"'../x' is not the name of a file in the folder"):
        generate(exported, REQUEST, out=io.StringIO())


def test_a_checkpoint_s_small_files_are_compared_without_deep(tmp_path: Path) -> None:
    name = Path("checkpoints") / "step-00000008"
    for file, place in (("config.yaml", 40), ("data.json", 60), ("tensors.json", 60)):
        run = Path(shutil.copytree(V1 / "checkpoint", tmp_path / file))
        flip(run / name / file, place)
        with pytest.raises(ValueError, match=rf"{file} has hash sha256:.* its bytes changed"):
            generate(run, REQUEST, tokenizer=str(V1 / "tokenizer"), out=io.StringIO())


def test_altered_text_of_a_shard_makes_no_certificate(tmp_path: Path) -> None:
    shards = Path(shutil.copytree(V1 / "shards", tmp_path / "shards"))
    train, held_out = (
        f"[{{prefix: {shards}/{split}-code}}, {{prefix: {shards}/{split}-prose}}]" for split in ("train", "held_out")
    )
    flip(shards / "held_out-code.bin", 20)
    with pytest.raises(DamagedShardError, match=r"held_out-code.bin block 0 .* has sha256"):
        export(
            V1 / "checkpoint", tmp_path / "export", ExportOptions(date="2026-01-01"),
            [f"data.tokenizer={V1 / 'tokenizer'}", f"data.train={train}", f"data.validation={held_out}"],
        )  # fmt: skip
    assert not (tmp_path / "export").exists()
