"""A page, read back: its curves and tables are the log's records; it loads nothing; it stays small."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fanal.run_folder import METRICS_FILE, REPORT_FILE, STARTS_DIR, start_name
from pretrain.log.start_file import Code, StartFile, write_start_file
from pretrain.report import read_log as module
from pretrain.report.command import report
from pretrain.report.quantities import figure, loss
from pretrain.report.report import Wanted, watch_report, write_report
from tests.unit.report.made_runs import Record, checkpoint, end, resumed, stamped, start, step, validation, write_run
from tests.unit.report.read_pages import Page
from tests.unit.report.test_report_markup import HOSTILE

GOLDEN = Path(__file__).parents[2] / "golden" / "formats"


def page_of(run_dir: Path, **wanted: Any) -> Page:
    write_report(Wanted(run_dir=run_dir, to=run_dir / REPORT_FILE, **wanted))
    return Page((run_dir / REPORT_FILE).read_text(encoding="utf-8"))


def assert_drawn(page: Page, title: str, name: str, expected: list[tuple[float, float]]) -> None:
    """The curve goes through these points, as exactly as a picture can say."""
    drawn = page.curves(title)[name]
    assert len(drawn.points) == len(expected)
    for (x, y), (real_x, real_y) in zip(drawn.points, expected, strict=True):
        assert abs(x - real_x) <= drawn.x_error
        assert abs(y - real_y) <= drawn.y_error * (real_y if drawn.is_log else 1)


def assert_page_tells(page: Page, records: list[Record]) -> None:
    """Of a run whose steps all stand in the log once: curves, tables and figures are those of its records."""
    steps = [record for record in records if record["kind"] == "step"]
    for domain in ("code", "prose"):
        expected = [(record["consumed_tokens"], record["loss_by_domain"][domain]) for record in steps]
        assert_drawn(page, "Training loss on tokens", domain, expected)
    norms = [(record["consumed_tokens"], record["grad_norm"]) for record in steps]
    assert_drawn(page, "Gradient norm", "gradient norm", norms)
    numbers = page.table("Training loss on tokens")
    assert [row["loss"] for row in numbers] == [loss(record["loss"]) for record in steps]
    assert [row["code"] for row in numbers] == [loss(record["loss_by_domain"]["code"]) for record in steps]
    speed = page.table("Throughput")
    assert [row["tokens/s"] for row in speed] == [figure(record["tokens_per_second"]) for record in steps]
    last_validation = [record for record in records if record["kind"] == "validation"][-1]
    facts = page.facts()
    assert facts["steps"] == f"{steps[-1]['step']:,}" and facts["training loss"] == loss(steps[-1]["loss"])
    assert facts["validation loss, code"] == loss(last_validation["validation_loss"]["code"])


STRAIGHT = stamped(
    [start(0), validation(0), *(step(at) for at in range(1, 41)), validation(40), checkpoint(40), end(40)], 1
)


def test_curves_tables_and_figures_are_those_of_the_records(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, STRAIGHT))
    assert_page_tells(page, STRAIGHT)
    assert "Finished: step 40 of 100." in page.words()
    assert page.titles() == [
        "Loss", "Throughput", "Gradients and learning rate", "Starts, jobs and nodes", "Checkpoints", "Configuration",
        "What could not be told",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["loss_by_domain", "grad_norm", "tokens_per_second", "consumed_tokens"])
def test_a_page_that_draws_another_number_is_found(tmp_path: Path, key: str) -> None:
    records = json.loads(json.dumps(STRAIGHT))
    wrong = next(record for record in records if record.get("step") == 17 and record["kind"] == "step")
    wrong[key] = {"code": 6.0, "prose": 6.0} if key == "loss_by_domain" else wrong[key] * 1.05
    page = page_of(write_run(tmp_path, records))
    with pytest.raises(AssertionError):
        assert_page_tells(page, STRAIGHT)


def test_lost_steps_are_drawn_apart_and_starts_are_marked(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, resumed()))
    svg = "".join(page.figures()["Training loss on time"].itertext())
    assert "lost steps" in svg and "start 2, after step 20" in svg
    points = page.curves("Training loss on time")["code"].points
    assert len(points) == 40 and points == sorted(points)
    rows = page.table("Starts")
    assert [(row["after step"], row["last step"], row["lost steps"], row["end"]) for row in rows] == [
        ("0", "30", "10", "no end was written"), ("20", "40", "0", "finished"),
    ]  # fmt: skip


def test_jobs_nodes_and_changes_are_those_of_the_start_files(tmp_path: Path) -> None:
    write_run(tmp_path, resumed())
    for number, job, hosts in ((1, "4711", ("n1", "n2")), (2, HOSTILE[0], tuple(f"n{at}" for at in range(40)))):
        write_start_file(tmp_path, StartFile(
            number=number, time_unix_s=1.7e9, startup_s=1.5, step=20 * (number - 1), consumed_samples=0, decay_start_sample=None,
            config={}, code=Code(version="0.2", commit="a" * 40, modified=True), versions={}, hosts=hosts, num_ranks=8,
            devices={"cpu": 8}, device_type="cpu", user=HOSTILE[1], job=job, sources=(), validation_sources=(), origin=None,
            changes=() if number == 1 else ("train.global_batch_size: 8 -> 16", HOSTILE[2]),
        ))  # fmt: skip
    page = page_of(tmp_path)
    rows = page.table("Starts")
    assert [(row["job"], row["user"], row["ranks"]) for row in rows] == [
        ("4711", HOSTILE[1], "8"), (HOSTILE[0], HOSTILE[1], "8"),
    ]  # fmt: skip
    assert rows[0]["nodes"] == "n1, n2" and rows[1]["nodes"].endswith("n7 and 32 more")
    assert rows[0]["code"] == f"0.2, commit {'a' * 10}, modified"
    assert "train.global_batch_size: 8 -> 16" in page.words()
    assert "".join(page.figures()["Starts of the run (number · job)"].itertext()).count("4711") == 1
    start_file = tmp_path / STARTS_DIR / start_name(1)
    start_file.write_text(start_file.read_text().replace('"n1"', '"n3"'))
    altered = page_of(tmp_path)
    assert "What could not be told" in altered.titles() and "it was altered" in altered.words()


def test_nothing_is_loaded_and_no_script_runs(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, resumed()), beside=GOLDEN / "v1" / "checkpoint", export=GOLDEN / "v1" / "export")
    assert not page.tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
        "use",
        "base",
        "audio",
        "video",
    }
    assert page.addresses and all(address.startswith("#") for address in page.addresses)
    metas = {meta.get("name") or meta.get("http-equiv"): meta.get("content") for meta in page.root.iter("meta")}
    assert (metas["Content-Security-Policy"] or "").startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    for word in ("url(", "@import", "@font-face"):
        assert word not in page.text
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 34rem"):
        assert rule in page.text


def test_each_picture_has_a_title_and_its_content_in_words(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, STRAIGHT))
    pictures = [svg for svg in page.root.iter() if svg.tag.endswith("svg") and svg.get("role") == "img"]
    assert len(pictures) >= 7
    for svg in pictures:
        title, words = list(svg)[:2]
        assert title.tag.endswith("title") and title.text and svg.get("aria-label") == title.text
        assert words.tag.endswith("desc") and words.text
    assert page.root.get("lang") == "en"
    levels = [int(found.tag[1]) for found in page.root.iter() if found.tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1


def test_names_may_hold_anything(tmp_path: Path) -> None:
    named = {text: 3.0 + at for at, text in enumerate(HOSTILE)}
    lines = [
        start(0, headline=HOSTILE[0], versions={HOSTILE[1]: HOSTILE[2]}, optimizer=HOSTILE[3]),
        *(step(at, loss_by_domain=named) for at in range(1, 6)),
        validation(5, validation_loss=named), checkpoint(5, warning=HOSTILE[4]), checkpoint(6, failure=HOSTILE[0]),
        end(5, outcome="stopped", asked_by=HOSTILE[1]),
    ]  # fmt: skip
    spikes = [
        {"step": 3, "reason": HOSTILE[0], "skipped": False, "loss": 4.0, "loss_z": 9.0, "grad_norm": None, "grad_norm_z": None,
         "first_sample": 20, "num_samples": 2, "samples": [{"sample": 20, "source": HOSTILE[0], "domain": HOSTILE[3]}, 7]},
    ]  # fmt: skip
    page = page_of(write_run(tmp_path / "<b>\u202e'\"&", lines, spikes))
    assert not page.tags & {"script", "img", "b"}
    assert "Step 3: </script><script>alert(1)</script>" in page.words()
    assert all(character not in page.text for character in "\u202e\x00\x1b")


def test_a_million_records_make_a_small_page_that_keeps_the_spike(tmp_path: Path) -> None:
    count = 1_000_000 if os.environ.get("FANAL_LONG_LOGS") else 30_000
    lines = (step(at, grad_norm=77.5 if at == count // 3 else 1.0 + at % 3 / 10) for at in range(1, count + 1))
    page = page_of(write_run(tmp_path, lines))
    assert len(page.text) < 500_000
    norms = page.curves("Gradient norm")["gradient norm"]
    assert max(y for _, y in norms.points) == pytest.approx(77.5, rel=0.01)
    assert len(page.table("Gradient norm")) <= 49


@pytest.mark.parametrize("run", ["v1/checkpoint", "v2/llama/checkpoint", "v2/gemma3/checkpoint"])
def test_a_log_of_an_earlier_version_shows_what_it_has(tmp_path: Path, run: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / run, folder)
    page = page_of(folder)
    records = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    for domain in steps[0]["loss_by_domain"]:
        expected = [(record["consumed_tokens"], record["loss_by_domain"][domain]) for record in steps]
        assert_drawn(page, "Training loss on tokens", domain, expected)
    assert len(page.curves("Training loss on time")["code"].points) == len(steps)
    assert "Validation loss" in page.figures() and "Resolved configuration of the newest start" in page.words()


def test_the_certificate_of_an_export_is_shown_and_a_changed_one_refused(tmp_path: Path) -> None:
    export = tmp_path / "export"
    shutil.copytree(GOLDEN / "v1" / "export", export)
    run = write_run(tmp_path / "run", STRAIGHT)
    page = page_of(run, export=export)
    rows = {row["what was compared"]: row["figure"] for row in page.table("Certificate of the export")}
    stated = json.loads((export / "certificate.json").read_text())["figures"]
    assert rows["loss of the export"] == figure(stated["their_loss"], 6) and "same model" in page.words()
    config = export / "config.json"
    config.write_bytes(config.read_bytes()[:-2] + b" }")
    done = CliRunner().invoke(report, [str(run), "--export", str(export)])
    assert done.exit_code == 76 and "config.json" in done.output


def test_two_runs_are_drawn_side_by_side(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", STRAIGHT)
    page = page_of(first, beside=GOLDEN / "v1" / "checkpoint")
    both = page.curves("Training loss of both")
    assert set(both) == {"first (this run)", "checkpoint"}
    assert_drawn(page, "Training loss of both", "first (this run)", [
        (record["consumed_tokens"], record["loss"]) for record in STRAIGHT if record["kind"] == "step"
    ])  # fmt: skip
    rows = {row[""]: row for row in page.table("Two runs")}
    assert (rows["steps"]["first (this run)"], rows["steps"]["checkpoint"]) == ("40", "8")


def test_wrong_input_is_one_line_with_advice_that_works(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", STRAIGHT))
    cases = {
        (str(tmp_path / "none"),): "is no folder",
        (str(tmp_path),): "metrics.jsonl in it, and it has none",
        (run, "--export", run): "has no certificate.json",
        (run, "--interval", "5"): "needs --watch; --watch --interval 5 works",
        (run, "--watch", "--interval", "0.1"): "--interval 60 works",
        (run, "--to", str(tmp_path / "no" / "folder" / "r.html")): "cannot be written",
    }  # fmt: skip
    for words, said in cases.items():
        done = CliRunner().invoke(report, list(words))
        assert (done.exit_code, said in done.output, done.output.count("\n")) == (2, True, 1), done.output
    done = CliRunner().invoke(report, [run])
    assert done.exit_code == 0 and f"{run}/{REPORT_FILE}" in done.output


def test_watching_rewrites_whole_files_until_it_is_interrupted(tmp_path: Path) -> None:
    run, said, seen = write_run(tmp_path, STRAIGHT[:20]), [], []
    path = run / REPORT_FILE

    def sleep(seconds: float) -> None:
        seen.append((Page(path.read_text(encoding="utf-8")).facts()["steps"], path.stat().st_ino, seconds))
        assert 'http-equiv="refresh" content="5"' in path.read_text(encoding="utf-8")
        if len(seen) == 2:
            raise KeyboardInterrupt
        write_run(tmp_path, STRAIGHT)

    watch_report(Wanted(run_dir=run), interval_s=5.0, said=said.append, sleep=sleep)
    assert [steps for steps, _, _ in seen] == ["18", "40"] and seen[0][1] != seen[1][1], "each is a new file"
    assert len(said) == 3 and "refresh" not in path.read_text(encoding="utf-8")
    assert {found.name for found in run.iterdir()} == {METRICS_FILE, REPORT_FILE}


def test_a_report_that_cannot_be_made_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, STRAIGHT)
    write_report(Wanted(run_dir=run))
    before = (run / REPORT_FILE).read_bytes()
    monkeypatch.setattr(module._Reader, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(Wanted(run_dir=run))
    assert (run / REPORT_FILE).read_bytes() == before
