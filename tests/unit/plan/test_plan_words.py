"""``fanal plan`` as it is called: its options, its sites, its words, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fanal.errors import UserError
from fanal.target_file import check_target
from launch.__main__ import sites
from launch.planning.command import plan as command
from launch.planning.place import Place
from launch.planning.plan import make_plan, write
from launch.planning.whole_run import WholeRunRequest
from pretrain.config.load import load_run
from pretrain.plan.table import Plan, lines, to_json

SMALL = ("model.num_layers=4",)
OPTIONS: dict[str, Any] = {"top": 3, "rehearsals": 0}
PLACE = {"gpus", "gpu", "site_name", "nodes"}


def planned(*overrides: str, **options: Any) -> Plan:
    place = Place(**{name: value for name, value in options.items() if name in PLACE})
    others = {name: value for name, value in options.items() if name not in PLACE}
    return make_plan("configs/1b.yaml", (*SMALL, *overrides), place, **{**OPTIONS, **others})


@pytest.fixture(scope="module")
def made() -> Plan:
    return planned(gpus=8, gpu="h100")


def test_the_table_fits_a_page(made: Plan) -> None:
    said = lines(made)
    assert len(said) > 25 and max(map(len, said)) <= 100
    assert any("MFU full" in line for line in said) and any("gradients of the weights" in line for line in said)
    assert any("node_latency_us" in line for line in said), "figures that are assumed are named"


def test_the_json_holds_what_the_table_says(made: Plan) -> None:
    tree = json.loads(to_json(made))
    first = tree["layouts"][0]
    assert first["peak_bytes"] == made.best[0].peak_bytes == max(sum(stage.values()) for stage in first["stages"])
    assert first["step_s"] == pytest.approx(sum(first["times"].values()))
    assert tree["figures"]["watts"]["source"]


def test_a_written_layout_is_a_config_over_the_config(made: Plan, tmp_path: Path) -> None:
    target = tmp_path / "layout.yaml"
    write(target, made)
    again = planned(f"@{target}", gpus=8, gpu="h100")
    assert again.own is not None
    assert (again.own.stages, again.own.times) == (made.best[0].stages, made.best[0].times)
    with pytest.raises(UserError, match=r"must not be there yet; --write .*layout-2\.yaml works"):
        check_target("--write", target, (".yaml",), may_replace=False)
    check_target("--write", tmp_path / "layout-2.yaml", (".yaml",), may_replace=False)
    for wrong, says in (("layout.txt", "must name a YAML file"), ("none/layout.yaml", "in a folder that exists")):
        with pytest.raises(UserError, match=says):
            check_target("--write", tmp_path / wrong, (".yaml",), may_replace=False)


def test_a_name_that_is_no_text_of_one_line_leaves_the_file_readable(made: Plan, tmp_path: Path) -> None:
    for name in ("two\nlines.yaml", "\udcff.yaml"):
        write(tmp_path / name, made)
        assert planned(f"@{tmp_path / name}", gpus=8, gpu="h100", top=1).own is not None


def test_a_file_that_cannot_be_written_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.planning.plan.make_plan", lambda *_, **__: pytest.fail("it searched"))
    config = tmp_path / "mine.yaml"
    config.write_text(Path("configs/1b.yaml").read_text())
    for target, says in (
        (config, "must not be there yet"),
        (tmp_path / "none" / "x.yaml", "a folder that exists"),
        (Path(), "must name a YAML file"),
    ):
        done = CliRunner().invoke(
            command, [str(config), "--gpus", "8", "--gpu", "h100", "--write", str(target) if target.name else ""]
        )
        assert done.exit_code == 2 and says in done.output, done.output
    assert config.read_text() == Path("configs/1b.yaml").read_text()


def test_a_site_says_its_machine_and_its_nodes() -> None:
    found = planned(site_name="jean-zay-h100", nodes=2)
    assert found.best[0].num_gpus == 8
    assert found.machine.gpus_per_node.value == 4 and found.machine.gpus_per_node.source == "site jean-zay-h100"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--gpus 8 --gpu h100 works"),
        ({"gpus": 8}, "--gpus 8 --gpu h100 works"),
        ({"gpus": 8, "gpu": "h900"}, "known are a100-40"),
        ({"gpus": 0, "gpu": "h100"}, "--gpus 8 works"),
        ({"gpus": 8, "gpu": "h100", "top": 0}, "--top 5 works"),
        ({"gpus": 8, "gpu": "h100", "rehearsals": -1}, "--rehearse 0"),
        ({"site_name": "jean-zay-h100"}, "--nodes 1 works"),
        (
            {"site_name": "jean-zay-h100", "nodes": 129},
            r"no qos of jean-zay-h100 .*qos_gpu_h100-t3: up to 512.*--nodes 128 works",
        ),
        ({"site_name": "jean-zay-v100", "nodes": 1}, "so do the sites .*jean-zay-a100, jean-zay-h100"),
        ({"site_name": "jean-zay-h100", "nodes": 1, "gpu": ""}, r"--gpu \(\) is not known; known are a100-40"),
        ({"site_name": "local", "nodes": 1}, r"--gpu cores\.yaml works, .*--site local --write-machine cores\.yaml"),
        ({"site_name": "jean-zay-h100", "nodes": 1, "gpus": 8}, "must be left out beside --site"),
        ({"site_name": "jean-zay-h100", "gpus": 8}, "must be left out beside --site"),
        ({"gpus": 8, "gpu": "h100", "nodes": 4}, "must stand beside --site"),
        (  # more than the one queue takes, and fewer than the other is for
            {"site_name": "leonardo", "gpu": "a100-80", "nodes": 100},
            r"normal: up to 256, boost_qos_bprod: from 512 any more, .*--nodes 64 and --nodes 128 work",
        ),
    ],
)
def test_wrong_options_are_refused_with_what_works(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        planned(**options)


def test_the_advice_for_too_many_nodes_works() -> None:
    assert planned(site_name="jean-zay-h100", nodes=128, top=1).best


def test_an_overlay_that_is_no_file_or_has_a_wrong_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be @ and a YAML file"):
        load_run("configs/1b.yaml", ["@nowhere.yaml"])
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("parallel: {tensor_parallel: 2}\n")
    with pytest.raises(UserError, match=r"parallel.tensor_parallel is not a key"):
        load_run("configs/1b.yaml", [f"@{wrong}"])
    wrong.write_text("train: {micro_batch_size: 4}\n")
    assert load_run("configs/1b.yaml", [f"@{wrong}"]).train.micro_batch_size == 4
    assert load_run("configs/1b.yaml", [f"@{wrong}", "train.micro_batch_size=8"]).train.micro_batch_size == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpus": 10**18, "gpu": "h100"}, r"--gpus \(1000000000000000000\) must be at most 1,048,576; --gpus 1048576 works"),
        ({"site_name": "alps-clariden", "nodes": 10**9}, r"--nodes \(1000000000\) must be at most 262,144, .* --nodes 262144 works"),
        ({"site_name": "jean-zay-h100", "nodes": 10**9}, r"no qos of jean-zay-h100 .*; --nodes 128 works"),
        ({"site_name": "local", "nodes": 2, "gpu": "h100"}, r"site local has no GPUs .*; without --site, --gpus 16 --gpu h100 works"),
        ({"gpus": 8, "gpu": "h100", "asked": WholeRunRequest(tokens=10**30)}, r"--tokens \(1000\d*\) must be at most .* works"),
        ({"gpus": 8, "gpu": "h100", "asked": WholeRunRequest(tokens=0)}, r"--tokens \(0\) must be at least 1"),
    ],
)  # fmt: skip
def test_what_is_too_much_is_refused_under_the_name_of_its_option(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        planned(**options)


def test_a_site_s_machine_that_is_not_known_is_named_by_its_key_and_when_the_site_is_shown(tmp_path: Path) -> None:
    site = tmp_path / "mine.yaml"
    site.write_text("base: jean-zay-h100\nmachine: h1000\n")
    says = rf"machine of site {site} \(h1000\) is not known; known are "
    with pytest.raises(UserError, match=says):
        planned(site_name=str(site), nodes=2)
    with pytest.raises(UserError, match=r"^--gpu \(h1000\) is not known"):
        planned(site_name=str(site), nodes=2, gpu="h1000")
    shown = CliRunner().invoke(sites, [str(site)])
    assert shown.exit_code == 2 and "machine of site" in shown.output + (shown.stderr or "")
    assert CliRunner().invoke(sites, ["jean-zay-h100"]).exit_code == 0
