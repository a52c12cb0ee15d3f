"""Names, labels and reasons that hold orders for a terminal: every command shows them, and the terminal obeys none."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.console import Bar, Console
from fanal.shown import ACTS, escaped, on_one_line
from tests.runs.ssh_keys import make_key
from tests.unit.launch.run_folder import RunFolder, decided, started, step, submitted, validation

ROOT = Path(__file__).parents[2]
ORDERS = "\x1b[2J\x1b]0;title\x07\x1b]8;;x:y\x1b\\\r\x9b31m\x7f\u202e\u2066\u2028[red]z\nFORGED line"
"""A name that clears the screen, names the window, makes a link, goes back, turns the writing round, and begins a line."""
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[1A|\x1b\[2K|\r")
"""What rich sends of its own: colours, the cursor, a line drawn again."""


def on_a_terminal(*words: object) -> tuple[int, str]:
    """(The exit code of a Python, all that its terminal was sent)."""
    inner, outer = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.DEVNULL, stdout=outer, stderr=outer, cwd=ROOT, env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(outer)
    sent = b""
    with contextlib.suppress(OSError):  # EIO is a terminal's end of file
        while part := os.read(inner, 1 << 16):
            sent += part
    os.close(inner)
    return process.wait(timeout=300), sent.decode("utf-8", errors="surrogateescape")


def obeyed(sent: str) -> list[str]:
    """The orders in what a terminal was sent that are not rich's, and lines that a value began."""
    rest = OURS.sub("", sent)
    return ACTS.findall(rest) + [line for line in rest.splitlines() if line.startswith("FORGED")]


@pytest.fixture
def strange_run(tmp_path: Path) -> Path:
    """The folder of a run whose name, log, jobs and checkpoints hold orders."""
    path = tmp_path / ORDERS
    run = RunFolder(path)
    run.metrics(step(1), {**validation(1, 2.0), "validation_loss": {ORDERS: 2.0}})
    last = decided("1", "stop", at_step=1, time_utc="2026-03-01T10:05:00Z", exclude=(ORDERS,))
    run.jobs(submitted("1"), {**started("1"), "nodes": [ORDERS]}, {**last, "reason": ORDERS})
    run.checkpoint(1)
    (path / "checkpoints" / f"step-00000002.{ORDERS}").mkdir()
    (path / "checkpoints" / "step-00000001" / ORDERS).write_text("x")
    return path


def test_no_command_has_a_terminal_obey_a_run(strange_run: Path) -> None:
    for words in (
        ["launch", "status"],
        ["launch", "status", "--json"],
        ["verify"],
        ["verify", "--deep"],
        ["generate", "--prompt", "x"],
    ):
        _, sent = on_a_terminal("-m", "fanal", *words, strange_run)
        assert not obeyed(sent) and "[2J" in sent, (words, sent)


def test_no_command_has_a_terminal_obey_a_config(strange_run: Path, data_folder: Path) -> None:
    tiny = (ROOT / "configs" / "tiny.yaml").read_text()
    shards = data_folder / "shards"
    for number, changed in enumerate(
        (
            re.sub("run_dir: .*", lambda _: f"run_dir: {json.dumps(str(strange_run))}", tiny),
            f"{tiny}\n{json.dumps(ORDERS)}: 1\n",
            re.sub("precision: .*", lambda _: f"precision: {json.dumps(ORDERS)}", tiny),
            re.sub("prefix: .*", lambda _: f"prefix: {json.dumps(str(shards / ORDERS))}", tiny),
        )
    ):
        config = strange_run / f"{number}{ORDERS}.yaml"
        config.write_text(changed)
        for words in (["show"], ["launch", "preflight", "--site", "local"]):
            _, sent = on_a_terminal("-m", "fanal", *words, config)
            assert not obeyed(sent) and "[2J" in sent, (words, sent)


def test_no_command_has_a_terminal_obey_a_shard(tmp_path: Path, data_folder: Path) -> None:
    prefix = tmp_path / ORDERS
    for suffix in (".bin", ".idx", ".json"):
        shutil.copy(f"{data_folder}/shards/validation-prose{suffix}", f"{prefix}{suffix}")
    texts = tmp_path / "texts" / ORDERS
    texts.mkdir(parents=True)
    (texts / f"a{ORDERS}.jsonl").write_text(json.dumps({"text": "one", "domain": ORDERS}) + "\n")
    (texts / f"b{ORDERS}.exe").write_text("x")
    read = ["--tokenizer", data_folder / "tokenizer", "--input", tmp_path / "texts"]
    for words in (
        ["verify", prefix], ["verify", f"{prefix}-not-there"], ["check", *read], ["adopt", prefix, "--tokenizer", ORDERS],
        ["encode", *read, "--output", tmp_path / "made", "--domain", "prose"], [ORDERS], ["verify", f"--{ORDERS}"],
    ):  # fmt: skip
        _, sent = on_a_terminal("-m", "fanal", "tokenizer", *words)
        assert not obeyed(sent) and "[2J" in sent, (words, sent)


def test_no_command_has_a_terminal_obey_an_export(tmp_path: Path) -> None:
    """The certificate of the first version has no hash of its own: whoever sends one may write anything into it."""
    golden = ROOT / "tests" / "golden" / "formats" / "v1"
    folder, key = Path(shutil.copytree(golden / "export", tmp_path / ORDERS)), make_key(tmp_path / "key")
    path = folder / "certificate.json"
    content = json.loads(path.read_text())
    content["checkpoint"]["name"] = ORDERS
    path.write_text(json.dumps(content | {"verdict": ORDERS, "date": ORDERS}))
    asked = ["--public-key", f"{key}.pub", "--run", golden / "checkpoint", "--shards", tmp_path / ORDERS]
    for words in (["verify", folder], ["sign", folder, "--key", key], ["verify", folder, *asked]):
        _, sent = on_a_terminal("-m", "fanal", *words)
        assert not obeyed(sent) and "[2J" in sent, (words, sent)
    (folder / f"{ORDERS}.json").write_text("{}")
    path.with_name("certificate.json.sig").write_text(ORDERS)
    for words in (["verify", folder], ["verify", folder, *asked], ["verify", folder / f"{ORDERS}.json"]):
        _, sent = on_a_terminal("-m", "fanal", *words)
        assert not obeyed(sent) and "[2J" in sent, (words, sent)


def test_a_crash_shows_what_its_traceback_holds() -> None:
    code = f"from fanal.errors import run_guarded\nfrom fanal.output import guard_output\nguard_output()\nrun_guarded(lambda: {{}}[{ORDERS!r}])"
    program = f"import sys; sys.argv = ['-c']; exec({code + chr(10) + 'raise SystemError(' + repr(ORDERS) + ')'!r})"
    _, sent = on_a_terminal("-c", program)
    assert not ACTS.findall(OURS.sub("", sent)) and "[2J" in sent, sent


COLOURED = """
import sys, time
from fanal.output import guard_output
from fanal.console import Bar, Console
from rich.table import Table
guard_output()
console = Console(file=sys.stdout)
table = Table("a", style="red")
table.add_row({0!r}, style="bold")
console.print(table)
with Bar(console=console) as bar:
    task = bar.add_task("train", total=2)
    print({0!r})
    print({0!r}, file=sys.stderr)
    bar.update(task, completed=2)
print({0!r})
"""


def test_colours_and_bars_of_our_own_go_on_working() -> None:
    _, sent = on_a_terminal("-c", COLOURED.format(ORDERS.replace("\n", " ")))
    assert not obeyed(sent), sent
    assert "\x1b[1m" in sent and "\x1b[?25l" in sent and "100%" in sent and "x:y" in sent
    assert "\x1b]8" not in sent and "[red]z" in sent


def test_what_is_written_out_is_what_acts() -> None:
    assert escaped("a\tb\né\u200d 中") == "a\tb\né\u200d 中"
    assert escaped("\x1b[0m\x85\udc80\u2029") == "\\x1b[0m\\u0085\\udc80\\u2029"
    assert on_one_line("a\x1b\nb") == "a\\x1b b"
    text = json.dumps({"é\x7f\u202e\u2028\x1b": "\r\x9b"}, ensure_ascii=False)
    assert json.loads(escaped(text)) == json.loads(text) and not ACTS.findall(escaped(text))


def test_every_console_and_bar_is_ours() -> None:
    """rich's own would take markup from a name, and would be refused its colours by the guarded output."""
    for package in ("fanal", "tokenizer", "pretrain", "launch"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path != ROOT / "fanal" / "console.py":
                assert not re.search(
                    r"rich\.console|from rich import|import rich\b|rich\.progress import .*\bProgress\b", text
                ), path
                assert not re.search(r"sys\.(__)?std(out|err)(__)?\.buffer|markup=True|from_markup", text), path
    assert Console()._markup is False and issubclass(Bar, object)
