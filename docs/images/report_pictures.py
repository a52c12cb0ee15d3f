"""Takes the pictures of a report for the docs: ``python -m docs.images.report_pictures REPORT.html OUT_DIR``.

``report-light.png`` is its beginning on a wide window, ``report-phone-dark.png`` on a phone in the dark.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from docs.images.browser import browser_path, open_browser

PICTURES = {"report-light.png": (1000, 1350, False), "report-phone-dark.png": (390, 1500, True)}
"""Width and height of each, and whether it is dark."""
MAX_BYTES = 200_000


def main(arguments: Sequence[str]) -> int:
    """Take both pictures; returns the exit code."""
    if len(arguments) != 2:
        print("usage: python -m docs.images.report_pictures REPORT.html OUT_DIR", file=sys.stderr)
        return 2
    report, folder = map(Path, arguments)
    path = browser_path()
    if path is None:
        print("error: no Chromium is on the path; `apt-get install chromium` brings one", file=sys.stderr)
        return 2
    with open_browser(path) as browser:
        for name, (width, height, dark) in PICTURES.items():
            taken = browser.open(report, width=width, height=height, dark=dark).picture(height=height)
            if len(taken) > MAX_BYTES:
                print(f"error: {name} has {len(taken):,} bytes, above {MAX_BYTES:,}", file=sys.stderr)
                return 2
            (folder / name).write_bytes(taken)
            print(f"{folder / name}: {len(taken):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
