"""A real run on a corpus with hostile labels, in the environment of a user with secrets: what it writes, and what it publishes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from launch.chain.capture import write_environment
from tests.runs.small import SMALL_RUN
from tests.unit.launch.secrets_of_a_user import SECRETS
from tests.unit.tokenizer.manifests import edit_manifest

ROOT = Path(__file__).parents[2]
RUN = "<img src=x>|`a`[x](javascript:1)"
LABELS = {
    "language": "fr\nlicense: mit",
    "licence": "MIT | x |\n\n# Free\n\n![x](http://evil.example/x.png)<script>alert(1)</script>",
    "domain": "prose `x` [y](javascript:alert(1)) | </td>",
    "source": "\x1b[2Jx",
}
"""As a manifest of an earlier version may hold them."""
SHOWN = (
    "fr license: mit",
    "alert(1)</script>",
    "![x](http://evil.example/x.png)",
    "[y](javascript:alert(1)) | </td>",
    RUN,
    "<b>shard<",
)


@pytest.fixture(scope="module")
def folder(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, its export, its scripts and the record of its environment, made by the commands."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(data_folder / "tokenizer", folder / "tokenizer")
    shutil.copytree(data_folder / "shards", folder / "shards")
    for suffix in (".bin", ".idx", ".json"):
        (folder / "shards" / f"train-prose{suffix}").rename(folder / "shards" / f"<b>shard<{suffix}")
    edit_manifest(folder / "shards" / "<b>shard<", **LABELS)
    edit_manifest(folder / "shards" / "validation-prose", **LABELS)
    tree = yaml.safe_load(SMALL_RUN.format(folder=folder))
    tree["run_dir"] = str(folder / RUN)
    tree["model"] |= {"num_layers": 2}
    tree["train"] |= {"train_steps": 2, "validation_interval": 1}
    tree["data"]["train"][1]["prefix"] = str(folder / "shards" / "<b>shard<")
    tree["log"]["tensorboard"] = True
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    environment = os.environ | SECRETS | {"PYTHONPATH": f"{ROOT}:{SECRETS['PYTHONPATH']}"}
    for words in (
        ["train", folder / "run.yaml"], ["export", folder / RUN, "--to", folder / "out", "--licence", "apache-2.0", "--samples", "1"],
        ["launch", "render", folder / "run.yaml", "--site", "local", "--nodes", "1", "--hours", "1"], ["verify", folder / RUN],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "fanal", *map(str, words)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / f"{words[0]}.output").write_text(done.stdout + done.stderr)
    return folder


def test_no_file_of_a_run_holds_a_secret_of_its_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    write_environment(folder / RUN / "environment.json", ROOT, ("n1",))  # as each job's start does
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 30 and any(path.name == "job.sbatch" for path in written)
    assert [
        path
        for path in written
        if re.search(rb"qq[0-9][0-9]", path.read_bytes(), re.IGNORECASE)
        and path.suffix not in (".bin", ".safetensors")  # numbers, in which any four bytes come up
    ] == []


def test_labels_and_names_give_the_card_no_key_and_no_markup(folder: Path) -> None:
    card = (folder / "out" / "README.md").read_text()
    data = ModelCard(card).data.to_dict()
    assert data == {"library_name": "transformers", "pipeline_tag": "text-generation", "license": "apache-2.0"}
    header, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert set(yaml.safe_load(header)) == {"library_name", "pipeline_tag", "license"}
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    allowed = {"h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "strong", "em"}
    assert set(re.findall(r"<(\w+)", html)) <= allowed, html
    assert html.count("<h1>") == 1 and "Free" not in re.findall(r"<h\d>(.*?)</h\d>", html)
    seen = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    assert [text for text in SHOWN if text not in seen] == []
    rows = re.findall(r"<tr>\n(.*?)</tr>", html, re.DOTALL)
    assert {row.count("<td>") + row.count("<th>") for row in rows} == {2, 5, 7}, "no label makes a cell"


def test_what_the_commands_printed_is_text(folder: Path) -> None:
    for path in folder.glob("*.output"):
        assert "\x1b" not in path.read_text() and "\nlicense: mit" not in path.read_text()
    records = [json.loads(line) for line in (folder / RUN / "metrics.jsonl").read_text().splitlines()]
    assert any(LABELS["domain"] in record.get("validation_loss", {}) for record in records), (
        "a log keeps a label as it is"
    )
