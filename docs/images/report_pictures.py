"""Takes the pictures of reports for the docs: ``python -m docs.images.report_pictures DEMO.html CHAIN.html OUT_DIR``.

``report-light.png`` is the beginning of the demo's report on a wide window, ``report-phone-dark.png`` on a phone in the dark,
``report-slurm.png`` of the report of a chain of jobs what it says of its starts and costs.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.images.browser import browser_path, open_browser

MAX_BYTES = 200_000
MARGIN = 16
"""Pixels above the first heading of a picture that begins with one."""


@dataclass(frozen=True)
class Picture:
    """A picture of a report."""

    name: str
    width: int
    height: int
    dark: bool = False
    first: str | None = None
    """Words of the heading that it begins with; None for the beginning of the page."""
    opened: str | None = None
    """Words that are clicked before, which open a part."""


OF_DEMO = (Picture("report-light.png", 1000, 1350), Picture("report-phone-dark.png", 390, 1500, dark=True))
OF_CHAIN = (Picture("report-slurm.png", 1000, 1390, first="Starts, jobs and nodes", opened="Starts"),)


def main(arguments: Sequence[str]) -> int:
    """Take all pictures; returns the exit code."""
    if len(arguments) != 3:
        print("usage: python -m docs.images.report_pictures DEMO.html CHAIN.html OUT_DIR", file=sys.stderr)
        return 2
    demo, chain, folder = map(Path, arguments)
    path = browser_path()
    if path is None:
        print("error: no Chromium is on the path; `apt-get install chromium` brings one", file=sys.stderr)
        return 2
    with open_browser(path) as browser:
        for report, picture in [*((demo, picture) for picture in OF_DEMO), *((chain, picture) for picture in OF_CHAIN)]:
            page = browser.open(report, width=picture.width, height=picture.height, dark=picture.dark)
            if picture.opened is not None:
                page.open_part(picture.opened)
            top = 0.0 if picture.first is None else page.top_of(picture.first) - MARGIN
            taken = page.picture(top=top, height=picture.height)
            if len(taken) > MAX_BYTES:
                print(f"error: {picture.name} has {len(taken):,} bytes, above {MAX_BYTES:,}", file=sys.stderr)
                return 2
            (folder / picture.name).write_bytes(taken)
            print(f"{folder / picture.name}: {len(taken):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
