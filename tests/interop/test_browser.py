"""A report in a browser: it loads nothing, breaks nothing, fits a phone, knows the dark, and is printed whole.

Chromium is told what to do through a pipe; ``make interop`` installs it where apt-get is.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.images.browser import Browser, Page, browser_path, open_browser
from pretrain.report.report import Wanted, write_report
from tests.golden.formats.kept import V1
from tests.interop.conftest import Lab
from tests.unit.report.made_runs import checkpoint, resumed, stamped, start, step, write_run
from tests.unit.report.test_report_markup import HOSTILE

PHONE, DESK = (390, 844), (1280, 900)
WIDE = "document.documentElement.scrollWidth"  # window.innerWidth grows with it on a phone
OPEN = "document.querySelectorAll('details').forEach(found => { found.open = true; })"
COLOURS = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.curve')).stroke]"
LIGHT, DARK = ["rgb(255, 255, 255)", "rgb(11, 98, 196)"], ["rgb(20, 23, 27)", "rgb(108, 176, 255)"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = browser_path()
    if path is None:
        if os.environ.get("FANAL_REQUIRE_INTEROP"):
            pytest.fail("no Chromium is on the path")
        pytest.skip("no Chromium is on the path; `apt-get install chromium` brings one")
    with open_browser(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a run that was just trained, of one of version 0.1, and of one whose names are hostile."""
    folder = tmp_path_factory.mktemp("reports")
    named = {text: 3.0 + at for at, text in enumerate(HOSTILE)}
    lines = [
        start(0, headline=HOSTILE[0]),
        *(step(at, loss_by_domain=named) for at in range(1, 40)),
        checkpoint(3, warning="w" * 900),
    ]
    spikes = [
        {"step": 3, "reason": HOSTILE[0], "skipped": True, "loss": 4.0, "grad_norm": 1.0, "first_sample": 20, "num_samples": 1,
         "samples": [{"sample": 20, "source": "/a/very/long/path" * 20, "first_document": 1}]},
    ]  # fmt: skip
    wanted = {
        "trained": Wanted(run_dir=lab.folder / "run", export=lab.folder / "bos", beside=V1.run_dir),
        "old": Wanted(run_dir=V1.run_dir),
        "hostile": Wanted(run_dir=write_run(folder / "hostile-run", stamped(lines, 1), spikes)),
        "resumed": Wanted(run_dir=write_run(folder / "resumed-run", resumed())),
    }
    found = {name: folder / f"{name}.html" for name in wanted}
    for name, each in wanted.items():
        write_report(Wanted(run_dir=each.run_dir, export=each.export, beside=each.beside, to=found[name]))
    return found


def assert_opens_well(page: Page, path: Path, width: int) -> None:
    """Nothing but the file was read, nothing was said, and no part is wider than the window, with everything opened."""
    page.ask(OPEN)
    wide = page.ask(WIDE)
    assert wide <= width, f"the page is {wide} px wide in a window of {width}"
    assert page.requests == [path.resolve().as_uri()], page.requests
    assert not page.messages, page.messages


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("name", ["trained", "old", "hostile", "resumed"])
def test_a_report_loads_nothing_breaks_nothing_and_fits(
    browser: Browser, reports: dict[str, Path], name: str, size: tuple[int, int], dark: bool, tmp_path: Path
) -> None:
    page = browser.open(reports[name], width=size[0], height=size[1], dark=dark)
    assert_opens_well(page, reports[name], size[0])
    assert page.ask(COLOURS) == (DARK if dark else LIGHT)
    assert page.ask("document.scripts.length + document.images.length") == 0
    picture = page.picture()
    (tmp_path / f"{name}.png").write_bytes(picture)
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", picture[16:24]) == size
    assert len(picture) > 5_000, "an empty page is smaller"


def test_text_of_the_charts_can_be_read_on_a_phone(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.open(reports["trained"], width=390, height=844)
    sizes = page.ask(
        "[...document.querySelectorAll('figure svg[role=img] text')].map(text => parseFloat(getComputedStyle(text).fontSize) * "
        "text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert sizes and min(sizes) >= 10, f"letters of {min(sizes):.1f} px"


def test_a_click_opens_the_samples_of_a_spike(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.open(reports["hostile"], width=390, height=844)
    spike = "[...document.querySelectorAll('#gradients > details')]"
    visible = f"{spike}[0].querySelector('table').checkVisibility()"
    assert page.ask(f"{spike}.length") == 1 and page.ask(visible) is False
    page.ask(f"{spike}[0].querySelector('summary').click()")
    assert page.ask(visible) is True and "/a/very/long/path" in page.ask(f"{spike}[0].innerText")


def test_a_report_is_printed_with_its_tables(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.open(reports["trained"], width=1280, height=900, dark=True)
    assert page.print()[:5] == b"%PDF-"
    tables = "[...document.querySelectorAll('details table')].map(table => table.checkVisibility())"
    assert set(page.ask(tables)) == {False}
    page.tell("Emulation.setEmulatedMedia", media="print")
    assert page.ask(COLOURS) == LIGHT
    assert set(page.ask(tables)) == {True}
    assert page.ask("getComputedStyle(document.querySelector('nav')).display") == "none"


@pytest.mark.parametrize(
    ("fault", "policy"),
    [
        ('<img src="https://example.invalid/x.png">', False),
        ('<img src="https://example.invalid/x.png">', True),
        ("<script>console.error('broken')</script>", False),
        ("<script>console.error('broken')</script>", True),
        ('<div style="width: 900px">wide</div>', True),
    ],
    ids=["image", "image under the policy", "script", "script under the policy", "wide"],
)
def test_a_page_that_loads_breaks_or_overflows_is_found(
    browser: Browser, reports: dict[str, Path], fault: str, policy: bool, tmp_path: Path
) -> None:
    text = reports["resumed"].read_text(encoding="utf-8").replace("<main>", f"<main>{fault}")
    path = tmp_path / "wrong.html"
    path.write_text(text if policy else text.replace("Content-Security-Policy", "nothing"), encoding="utf-8")
    page = browser.open(path, width=390, height=844)
    with pytest.raises(AssertionError):
        assert_opens_well(page, path, 390)
