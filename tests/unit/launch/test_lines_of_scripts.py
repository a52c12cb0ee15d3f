"""No value begins a line of a job's script, and none is run by its shell: it is refused, or stands there as text."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fanal.errors import UserError
from launch.chain.render import render
from launch.chain.request import Job, Places, Request, plan_job
from launch.chain.script import script
from launch.encoding.encode import plan_encode, render_encode
from launch.sites.bases import SITES
from launch.sites.site import load_site
from pretrain.config.load import load_run
from tests.unit.launch.encoding import Encoding, site_of

ROOT = Path(__file__).parents[3]
TEXTS = {
    "a line": "x\n#SBATCH --account=theirs",
    "a command": "x\ntouch {made}",
    "a return": "x\rtouch {made}",
    "a separator": "x\u2028touch",
    "a substitution": "$(touch {made})",
    "backquotes": "`touch {made}`",
    "quotes": "'\"; touch {made}; '\"",
    "blanks and a comment": "a b #c",
    "an escape": "\x1b[2J",
}
PLACES = Places(workdir=Path("/project"), code_dir=Path("/code"), python=Path("/venv/bin/python"))


def job_of(folder: Path, changed: str, text: str) -> Job:
    """A job in which one name is the text. Raises: UserError."""
    run_dir = folder / (text.replace("/", "-") if changed == "run_dir" else "mine")
    run = replace(load_run(ROOT / "configs" / "tiny.yaml"), run_dir=str(run_dir))
    site_path = folder / f"{text.replace('/', '-') if changed == 'site' else 'site'}.yaml"
    tree = yaml.safe_load((SITES / "generic.yaml").read_text()) | {"gpus_per_node": 0, "file_systems": []}
    if changed in ("description", "partition", "constraint", "account_suffix", "hint", "node_local_dir"):
        tree[changed] = text
    elif changed == "module of a site":
        tree["modules"] = [text]
    elif changed in ("value", "reason"):
        tree["environment"] = {"MINE": {"value": "1", "reason": "why", changed: text}}
    elif changed == "variable":
        tree["environment"] = {text: {"value": "1", "reason": "why"}}
    elif changed == "qos of a site":
        tree["qos"] = [{"name": text, "max_hours": 20}]
    site_path.write_text(yaml.safe_dump(tree))
    asked = {
        "account": {"account": text},
        "qos": {"qos": text},
        "module": {"modules": (text,)},
        "exclude": {"exclude": (text,)},
    }
    places = replace(PLACES, **({changed: Path("/") / text} if changed in ("workdir", "code_dir", "python") else {}))
    request = Request(**{"nodes": 1, "hours": 1.0, "node_local": changed == "node_local_dir", **asked.get(changed, {})})
    return plan_job(run, str(site_path), load_site(str(site_path)), request, places)


@pytest.mark.parametrize(
    "changed",
    ["run_dir", "site", "description", "partition", "constraint", "account_suffix", "hint", "node_local_dir", "module of a site",
     "value", "reason", "variable", "qos of a site", "account", "qos", "module", "exclude", "workdir", "code_dir", "python"],
)  # fmt: skip
def test_no_name_begins_a_line_of_a_job_s_script_or_is_run(changed: str, tmp_path: Path) -> None:
    ordinary = script(job_of(tmp_path, "", "x"), {}).splitlines()
    for what, text in TEXTS.items():
        text = text.format(made=(tmp_path / "made").name)
        try:
            written = script(job_of(tmp_path, changed, text), {})
        except UserError as refused:
            assert "\n" not in str(refused) or "works" in str(refused)
            continue
        check(written, len(ordinary), tmp_path, f"{changed}: {what}")


def check(written: str, num_lines: int, folder: Path, what: str) -> None:
    """No line more than with an ordinary name, none that a value began, and nothing of it is run."""
    assert len(written.splitlines()) <= num_lines + 3, what  # modules and a variable have lines of their own
    assert not re.search(r"^\s*(#SBATCH --account=theirs|touch|x$)", written, re.MULTILINE), what
    settings = [line for line in written.splitlines() if not line.startswith(("module ", "cd "))]
    start = settings[: next((n for n, line in enumerate(settings) if line.startswith("# --- signals")), len(settings))]
    if "# --- where, with what" in start:  # without what asks for a launch folder
        place = next(line for line in start if line.startswith("launch_dir="))
        start = [
            *start[: next(n for n, line in enumerate(start) if line.startswith("try_again() {"))],
            place,
            *start[start.index("# --- where, with what") :],
        ]
    for text, options in ((written, ["-n"]), ("\n".join(start), [])):
        done = subprocess.run(["bash", *options, "-c", text], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (what, done.stderr)
    assert not (folder / "made").exists(), what


def test_nothing_is_written_for_a_name_that_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, "site", TEXTS["a line"])
    with pytest.raises(
        UserError, match=r"each line of a job's script must be .* named without tabs and ends of lines works"
    ):
        render(job)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("changed", ["inputs", "tokenizer", "output", "passed_on", "modules", "site"])
def test_no_name_begins_a_line_of_an_encoding_s_scripts(changed: str, encoding: Encoding) -> None:
    for what, text in TEXTS.items():
        text = text.format(made="made")
        named = encoding.folder / text
        if changed == "tokenizer" and not named.exists():
            named.symlink_to(encoding.data / "tokenizer")
        elif changed == "inputs":
            named.write_text('{"text": "x"}\n')
        value = {"inputs": (str(named),), "passed_on": ("--domain", text), "modules": (text,)}.get(changed, str(named))
        try:
            site_name = text if changed == "site" else "local"
            request = encoding.request(**({} if changed == "site" else {changed: value}))
            folder = render_encode(plan_encode(site_name, site_of("local"), request, encoding.places))
        except UserError:
            continue
        for name in ("encode.sbatch", "merge.sbatch"):
            written = (folder / name).read_text()
            assert not re.search(r"^\s*(#SBATCH --account=theirs|touch|x$)", written, re.MULTILINE), what
            done = subprocess.run(["bash", "-n", str(folder / name)], capture_output=True, text=True)
            assert done.returncode == 0, (what, done.stderr)
