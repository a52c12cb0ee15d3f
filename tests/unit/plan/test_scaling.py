"""Strong and weak scaling: what stays, what grows, and the picture."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.target_file import check_target
from launch.planning.scaling_picture import draw
from pretrain.config.load import load_run
from pretrain.plan.machine import load_machine
from pretrain.plan.scaling import MOST_GPUS, STRONG, WEAK, Point, efficiency, scale_up, words


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return scale_up(load_run("configs/1b.yaml"), load_machine("h100"), MOST_GPUS // 2)


def test_the_batch_stays_or_grows_with_the_gpus(points: list[Point]) -> None:
    assert [(one.kind, one.num_gpus, one.batch) for one in points] == [
        (STRONG, 2048, 256),
        (STRONG, 4096, 256),
        (WEAK, 2048, 256),
        (WEAK, 4096, 512),
    ]
    strong, weak = efficiency(points[1], points[0]), efficiency(points[3], points[2])
    assert strong is not None and weak is not None
    assert strong < weak <= 1.05
    assert f"{strong:.1%}" in words(points)


def test_the_picture_is_an_svg_with_both_curves(points: list[Point], tmp_path: Path) -> None:
    draw(tmp_path / "scaling.svg", points, "a <title>")
    root = ElementTree.parse(tmp_path / "scaling.svg").getroot()
    curves = [one.get("data-name") for one in root.iter() if (one.get("class") or "").startswith("curve")]
    assert curves == ["strong: the batch stays", "weak: the batch grows with the GPUs"]


def test_wrong_input_says_what_works(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 to 2,048 GPUs, .*as many as 2,048 work"):
        scale_up(load_run("configs/1b.yaml"), load_machine("h100"), 0)
    with pytest.raises(UserError, match=r"must name an SVG file; --scaling .*\.svg works"):
        check_target("--scaling", tmp_path / "scaling.png", (".svg",), may_replace=True)
    check_target("--scaling", tmp_path / "scaling.png.svg", (".svg",), may_replace=True)
    with pytest.raises(UserError, match="folder that exists"):
        check_target("--scaling", tmp_path / "none" / "scaling.svg", (".svg",), may_replace=True)
