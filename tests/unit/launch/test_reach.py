"""Where a path leads: through links, and onto which file system of a site."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from launch.preflight.space import quota
from launch.sites.reach import check_paths, check_reach, file_systems_of, readings
from launch.sites.schema import FileSystemConfig, SiteConfig
from launch.sites.site import load_site
from pretrain.config.load import load_run

CONFIG = Path(__file__).parents[3] / "configs" / "tiny.yaml"


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one folder for each of three file systems; STORE has the longest name, and then the shortest root."""
    for name in ("scratch-of-the-project", "store", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SCRATCH_OF_TEST", str(tmp_path / "scratch-of-the-project"))
    monkeypatch.setenv("STORE_OF_TEST", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def site(disks: Path) -> SiteConfig:
    file_systems = [
        FileSystemConfig(name="SCRATCH", roots=["$SCRATCH_OF_TEST"], quota_command="echo scratch"),
        FileSystemConfig(name="STORE", roots=["$STORE_OF_TEST", "$NOT_SET"], on_compute_nodes=False, quota_command="echo store"),
        FileSystemConfig(name="WORK", roots=[str(disks / "work")]),
    ]  # fmt: skip
    return replace(load_site("local"), file_systems=file_systems)


def names(path: Path, site: SiteConfig) -> list[str]:
    return [file_system.name for _, file_system in file_systems_of(path, site)]


def test_a_path_without_links_has_one_reading(disks: Path, site: SiteConfig) -> None:
    assert names(disks / "work" / "x", site) == ["WORK"]
    assert names(disks / "elsewhere", site) == []
    assert names(disks / "work" / ".." / "store" / "x", site) == ["STORE"]


def test_every_link_on_the_way_counts(disks: Path, site: SiteConfig) -> None:
    (disks / "store" / "back").symlink_to("../work")
    (disks / "scratch-of-the-project" / "link").symlink_to(disks / "store" / "back")
    path = disks / "scratch-of-the-project" / "link" / "run"
    assert readings(path) == [path, disks / "store" / "back" / "run", disks / "work" / "run"]
    assert names(path, site) == ["SCRATCH", "STORE", "WORK"]


def test_a_root_that_is_a_link_itself_is_one_file_system(disks: Path, site: SiteConfig) -> None:
    (disks / "alias").symlink_to(disks / "store")
    named = replace(
        site, file_systems=[*site.file_systems, FileSystemConfig(name="MINE", roots=[f"{disks}/alias/mine"])]
    )
    assert names(disks / "alias" / "mine" / "x", named) == ["MINE", "MINE"]
    assert names(disks / "store" / "mine" / "x", named) == ["MINE"]


def test_links_in_a_circle_end(disks: Path, site: SiteConfig) -> None:
    (disks / "work" / "a").symlink_to(disks / "work" / "b")
    (disks / "work" / "b").symlink_to(disks / "work" / "a")
    assert set(names(disks / "work" / "a", site)) == {"WORK"}


def refused(site: SiteConfig, disks: Path, *overrides: str, run_dir: Path) -> str:
    run = load_run(CONFIG, [f"data.tokenizer={disks}/work/tokenizer", *overrides])
    with pytest.raises(ValueError) as caught:
        check_reach(run, site, "here", run_dir=run_dir, places=[disks / "work"] * 3)
    return str(caught.value)


@pytest.mark.parametrize("below", ["link/run", "link"])
def test_a_run_folder_behind_a_link_is_refused(below: str, disks: Path, site: SiteConfig) -> None:
    (disks / "scratch-of-the-project" / "link").symlink_to(disks / "store")
    run_dir = disks / "scratch-of-the-project" / below
    leads = disks / below.replace("link", "store")
    assert refused(site, disks, run_dir=run_dir) == (
        f"run_dir ({run_dir}) leads to {leads}, on STORE of here, which compute nodes cannot reach; one of SCRATCH, WORK works"
    )


def test_a_link_on_what_nodes_cannot_reach_is_refused_wherever_it_leads(disks: Path, site: SiteConfig) -> None:
    (disks / "store" / "link").symlink_to(disks / "scratch-of-the-project")
    assert "lies on STORE of here" in refused(site, disks, run_dir=disks / "store" / "link")


def test_checkpoints_that_are_a_link_are_refused(disks: Path, site: SiteConfig) -> None:
    (disks / "work" / "run").mkdir()
    (disks / "work" / "run" / "checkpoints").symlink_to(disks / "store")
    assert refused(site, disks, run_dir=disks / "work" / "run").startswith(
        f"run_dir ({disks}/work/run/checkpoints) leads to"
    )


@pytest.mark.parametrize("end", [".bin", ".idx", ".json"])
def test_each_file_of_a_shard_is_looked_at(end: str, disks: Path, site: SiteConfig) -> None:
    (disks / "work" / f"a{end}").symlink_to(disks / "store" / "a")
    said = refused(site, disks, f"data.validation=[{{prefix: {disks}/work/a}}]", run_dir=disks / "work" / "run")
    assert re.match(rf"data.validation\[0\].prefix \({disks}/work/a{end}\) leads to {disks}/store/a, on STORE", said)
    with pytest.raises(ValueError, match="on STORE"):
        check_paths([("--input", disks / "work" / f"a{end}")], site, "here")


def test_the_quota_is_that_of_where_the_links_end(disks: Path, site: SiteConfig) -> None:
    (disks / "scratch-of-the-project" / "link").symlink_to(disks / "store")
    assert quota(disks / "scratch-of-the-project" / "link" / "run", site) == "echo store says\nstore"
