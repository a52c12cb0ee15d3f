"""Where an export and an import may be written."""

from pathlib import Path

import pytest

from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.exporting.folder import ExportTargetError, check_target
from pretrain.convert.importing.import_folder import ImportTargetError, import_hf
from pretrain.convert.ours.target import harm_of, named

INSIDE = [
    "run/checkpoints/step-00000006/export", "run/checkpoints/step-00000006/shards/export", "run/checkpoints/step-00000007/new",
    "run/checkpoints/step-00000006.part/export", "run/checkpoints/step-00000006.bad-2/export", "imported/export", "link/export",
]  # fmt: skip
NAMES = ["run/checkpoints/step-00000100", "step-00000100", "step-00000100.part", "run/checkpoints/step-00000100.bad"]


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "run/checkpoints/step-00000006/shards").mkdir(parents=True)
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported/COMPLETE").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "run/checkpoints/step-00000006")
    return tmp_path


@pytest.mark.parametrize("name", [*INSIDE, *NAMES])
def test_a_place_where_it_would_harm_a_checkpoint_or_count_as_one_is_refused(
    name: str, places: Path, folder: Path
) -> None:
    before = sorted(places.rglob("*"))
    rule = "must be outside of checkpoints" if name in INSIDE else "must not be named like a run's checkpoint"
    with pytest.raises(ImportTargetError, match=rf"CHECKPOINT \(.*\) {rule}.* works$") as refused:
        import_hf(folder, places / name)
    works = Path(str(refused.value).rpartition("; ")[2].removesuffix(" works"))
    assert harm_of(works) is None
    (places / name).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(ExportTargetError, match=rf"--to \(.*\) {rule}"):
        check_target(places / name, weight_bytes=0)
    assert set(before) <= set(places.rglob("*")) and not (places / name).exists()


def test_a_place_beside_checkpoints_is_taken_and_an_import_may_be_named_as_step_0(places: Path) -> None:
    for name in ("run/export", "run/checkpoints/export", "step-7"):
        check_target(places / name, weight_bytes=0)
    assert harm_of(places / "step-00000000", may_be_step_0=True) is None
    assert harm_of(places / "step-00000000") is not None
    assert harm_of(places / "run/checkpoints/step-00000000", may_be_step_0=True) is not None


def test_a_file_on_the_way_is_named_and_no_mkdir_proposed(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for name in ("plain/x", "plain/x/y"):
        with pytest.raises(
            ExportTargetError, match=r"must be in an existing folder, and .*/plain is not a folder; .*/[xy] works"
        ) as refused:
            check_target(tmp_path / name, weight_bytes=0)
        assert "mkdir" not in str(refused.value)
    with pytest.raises(ExportTargetError, match=r"`mkdir -p .*/a/b` creates it$"):
        check_target(tmp_path / "a/b/c", weight_bytes=0)


def test_the_empty_folder_one_is_in_is_taken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert named(".") == here and named("..") == tmp_path and named("a") == Path("a")
    assert import_hf(folder, ".").checkpoint == here and (here / "COMPLETE").is_file()
    monkeypatch.chdir(here)  # the one of before was replaced
    for to in (".", "..", "/"):
        with pytest.raises(ImportTargetError, match="must not exist yet"):
            import_hf(folder, to)
        with pytest.raises(ExportTargetError, match="must not exist, or be an empty folder"):
            export(here, to, ExportOptions(date="2026-01-01"))
