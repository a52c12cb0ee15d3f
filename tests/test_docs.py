"""What README and docs promise: a README that stays short, links that lead somewhere, commands and targets that exist."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from docs.images.loss_curves import loss_curves
from launch.__main__ import cli as launch_commands
from launch.planning.__main__ import cli as planning_commands
from pretrain.__main__ import cli as pretrain_commands
from tokenizer.__main__ import commands as tokenizer_commands

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "configs").rglob("README.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
PICTURE = ROOT / "docs" / "images" / "demo-loss.svg"
MAX_README_WORDS = 900
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```[a-z]*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|\s)(?:\.venv/bin/)?fanal +([a-z].*)")


def commands() -> dict[str, click.Command]:
    """Every command of ``fanal`` by the words that it is called with."""
    table = {**pretrain_commands.commands, **planning_commands.commands}
    for group, members in (("tokenizer", tokenizer_commands.commands), ("launch", launch_commands.commands)):
        table |= {f"{group} {name}": command for name, command in members.items()}
    return table


def code_lines(text: str) -> Iterator[str]:
    """What stands in code blocks and between backticks, a continued line as one."""
    for block, inline in CODE.findall(text):
        yield from (inline or block).replace("\\\n", " ").splitlines()


def wrong_command(line: str) -> str | None:
    """What a line of code gets wrong about a command of ``fanal``; None if it is right, or names none."""
    found = COMMAND.search(line.split("#")[0])
    if found is None:
        return None
    words = shlex.split(found[1].replace("...", ""))
    name = " ".join(words[: 2 if words[0] in ("tokenizer", "launch") else 1])
    command = commands().get(name)
    if command is None:
        return None if words in (["tokenizer"], ["launch"]) else f"{line.strip()!r}: no command {name!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = words[: words.index("--")] if "--" in words else words
    wrong = [word for word in given if word.startswith("--") and word.split("=")[0] not in {*known, "--help"}]
    return f"{line.strip()!r}: no option {wrong}" if wrong else None


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def wrong_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of one."""
    wrong = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


def test_the_readme_fits_on_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < MAX_README_WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert wrong_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_the_docs_exists_with_its_options(page: Path) -> None:
    found = [wrong_command(line) for line in code_lines(page.read_text(encoding="utf-8"))]
    assert [wrong for wrong in found if wrong is not None] == []


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (page.name, target)
        for page in PAGES
        for line in code_lines(page.read_text(encoding="utf-8"))
        for target in re.findall(r"^\s*make ([a-z][\w./-]*)", line)
    }
    assert {("README.md", "demo"), ("README.md", "test")} <= named
    assert [(page, target) for page, target in sorted(named) if target not in targets] == []


def test_each_command_of_the_trainer_is_in_the_docs() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    hidden = {name for name, command in commands().items() if command.hidden}
    assert [name for name in commands() if name not in hidden and f"fanal {name}" not in text] == []


@pytest.mark.parametrize(
    "line",
    ["fanal trian x.yaml", ".venv/bin/fanal launch sumbit x", "fanal export runs/x --into y", "fanal tokenizer encod"],
)
def test_a_command_or_an_option_that_does_not_exist_is_found(line: str) -> None:
    assert wrong_command(line) is not None


def test_a_link_to_nowhere_and_to_no_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, with `code`\n")
    text = "[a](other.md) [b](#none) [c](#a-heading-with-code) [d](page.md) [e](https://example.org/x)"
    assert wrong_links(page, text) == ["other.md", "#none"]


def test_the_picture_of_a_run_is_drawn_from_its_metrics(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    records = [
        {"kind": "validation", "step": 0, "validation_loss": {"code": 7.5, "a<b": 7.6}},
        {"kind": "step", "step": 10, "loss_by_domain": {"code": 6.0, "a<b": None}},
        {"kind": "step", "step": 20, "loss_by_domain": {"code": 9.0}},
        {"kind": "step", "step": 20, "loss_by_domain": {"code": 5.0}},
        {"kind": "validation", "step": 20, "validation_loss": {"code": 5.5, "a<b": 5.6}},
    ]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind": "st')
    drawn = ElementTree.fromstring(loss_curves(metrics, title="a run"))
    lines = [len(line.attrib["points"].split()) for line in drawn.findall(".//{*}polyline")]
    assert lines == [2, 2, 2]  # validation of a<b, which has no training loss; training and validation of code
    names = drawn.findall(".//{*}text")[-2:]
    assert [name.text for name in names] == ["a<b 5.60", "code 5.50"]
    assert float(names[1].attrib["y"]) - float(names[0].attrib["y"]) >= 16, "one name over the other"


def test_the_committed_picture_reads_on_a_light_and_a_dark_page() -> None:
    drawn = ElementTree.fromstring(PICTURE.read_text(encoding="utf-8"))
    assert not drawn.findall(".//{*}rect"), "a background of its own"
    colours = {
        element.attrib[kind]
        for element in drawn.iter()
        for kind in ("fill", "stroke")
        if element.attrib.get(kind, "none") != "none"
    }
    assert len(colours) == 3, "two domains and the grey of axes and text"
    for colour in colours:  # as bright as grey: neither vanishes on white nor on black
        red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        assert 0.25 < 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75, colour
