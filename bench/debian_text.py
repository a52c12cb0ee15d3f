"""Real text in many languages from Debian packages, as JSON lines, one document per page.

    python -m bench.debian_text FOLDER

FOLDER/LANGUAGE.jsonl         translated manual pages as they are, markup included
FOLDER/help-LANGUAGE.jsonl    LibreOffice's help, its text alone: prose

Packages come from the machine's own Debian mirror; nothing is installed.
"""

import argparse
import gzip
import html.parser
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PACKAGES = {
    "cs": ("manpages-cs",),
    "da": ("manpages-da",),
    "de": ("manpages-de", "manpages-de-dev"),
    "es": ("manpages-es", "manpages-es-dev"),
    "fr": ("manpages-fr", "manpages-fr-dev"),
    "it": ("manpages-it", "manpages-it-dev"),
    "ja": ("manpages-ja", "manpages-ja-dev"),
    "nl": ("manpages-nl",),
    "pl": ("manpages-pl", "manpages-pl-dev"),
    "pt": ("manpages-pt-br", "manpages-pt-br-dev"),
    "ro": ("manpages-ro",),
    "ru": ("manpages-ru", "manpages-ru-dev"),
    "sv": ("manpages-sv",),
    "uk": ("manpages-uk", "manpages-uk-dev"),
    "zh": ("manpages-zh",),
}
HELP_LANGUAGES = ("de", "es", "fr", "it", "nl", "pl", "pt")
LICENCE = "GPL-3.0-or-later"  # of the manpages-l10n project; single pages say more
HELP_LICENCE = "MPL-2.0"


def is_available() -> bool:
    """Whether this machine can fetch Debian packages."""
    return all(shutil.which(program) for program in ("apt-get", "dpkg-deb"))


def make_text(folder: Path, languages: Sequence[str] = tuple(PACKAGES)) -> list[Path]:
    """Manual pages in these languages, fetched where they are missing.

    Raises: RuntimeError with apt-get's words if a package cannot be had.
    """
    return [_made(folder / f"{language}.jsonl", PACKAGES[language], _manual_pages) for language in languages]


def make_help(folder: Path, languages: Sequence[str] = HELP_LANGUAGES) -> list[Path]:
    """LibreOffice's help in these languages, likewise."""
    return [
        _made(folder / f"help-{language}.jsonl", (f"libreoffice-help-{language}",), _help_pages)
        for language in languages
    ]


Pages = Iterator[dict[str, str]]


def _made(path: Path, packages: Sequence[str], pages: Callable[[Path], Pages]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            work = Path(temporary)
            _fetch(packages, work)
            with (work / "part").open("w", encoding="utf-8") as stream:
                for row in pages(work / "root"):
                    row["language"] = path.stem.removeprefix("help-")
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            (work / "part").rename(path)
    return path


def _fetch(packages: Sequence[str], work: Path) -> None:
    found = _apt("download", *packages, folder=work)
    if found.returncode and os.geteuid() == 0:  # a fresh image has no lists of packages
        _apt("update", folder=work)
        found = _apt("download", *packages, folder=work)
    if found.returncode:
        raise RuntimeError(f"apt-get download {' '.join(packages)} failed: {found.stderr.strip()}")
    for package in sorted(work.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, work / "root"], check=True)


def _apt(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["apt-get", "-qq", *words], cwd=folder, capture_output=True, text=True, check=False)


def _manual_pages(root: Path) -> Pages:
    """Every page once; links and pages that only name another page are left out."""
    for path in sorted((root / "usr" / "share" / "man").rglob("*.gz")):
        if not path.is_symlink():
            text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore")
            if len(text) > 200:
                yield {"text": text, "domain": "manual", "licence": LICENCE, "source": str(path.relative_to(root))}


class PageText(html.parser.HTMLParser):
    """The text of a page, a line for each of its pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.hidden and (line := " ".join(data.split())):
            self.lines.append(line)


def _help_pages(root: Path) -> Pages:
    for path in sorted(root.rglob("*.html")):
        parser = PageText()
        parser.feed(path.read_text(encoding="utf-8", errors="ignore"))
        text = "\n".join(parser.lines)
        if len(text) > 500:
            yield {"text": text, "domain": "help", "licence": HELP_LICENCE, "source": str(path.relative_to(root))}


def main() -> None:
    """Fetch everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for path in [*make_text(folder), *make_help(folder)]:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
