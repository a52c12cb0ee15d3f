"""What an earlier version wrote of a chain, its evaluations and nodes to avoid (tests/golden/formats/make_chain.py): it is read.

A test that fails here says that chains of users forget with this version. Mend the code, not the files.
"""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fanal.errors import DamageError
from launch.chain import avoid, jobs_file, notify
from launch.chain.evaluation_watch import noted, queued_steps
from launch.chain.node_list import Entry, edit_list, read_list
from pretrain.log.evaluation_file import answered, read_evaluations

KEPT = Path(__file__).parents[2] / "golden" / "formats" / "v3" / "chain"
JOB = "33505000"
ADDED = "2026-11-30 13:10"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A copy that nobody else may write to, whatever umask a clone was made with."""
    folder = Path(shutil.copytree(KEPT, tmp_path / "run"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_the_kept_starts_of_a_job_are_its_tries_with_the_nodes_that_trained(kept: Path) -> None:
    records = jobs_file.read_run(kept)
    assert len(records) == 7
    first, second = jobs_file.attempts(records)
    assert (first.job, first.restart, first.inside, first.step, first.nodes) == (JOB, 0, 0, 0, ("n2", "n3"))
    assert (second.job, second.restart, second.inside, second.step) == (JOB, 0, 1, 8)
    assert first.decision is not None and first.decision["action"] == "restart"
    assert first.decision["exit_code"] == 70 and first.decision["reason"].startswith("a crash (exit code 70); 1,716 s")
    assert second.decision is not None and second.decision["action"] == "finish" and second.decision["step"] == 40
    assert jobs_file.excluded(records, since=datetime(2026, 1, 1, tzinfo=UTC)) == ("n1",)
    assert jobs_file.restarts_without_checkpoint(records) == 0
    path = kept / "launch" / "jobs.jsonl"
    path.write_text(path.read_text().replace('"inside": 1', '"restarted": 1'))
    assert len(jobs_file.attempts(jobs_file.read_run(kept))) == 2
    assert [attempt.inside for attempt in jobs_file.attempts(jobs_file.read_run(kept))] == [0, 0], "would be noticed"


def test_what_a_kept_chain_has_told_is_not_told_again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def post(url: str, payload: dict[str, dict[str, str]]) -> str:
        told.append(payload["fanal"]["event"])
        return ""

    monkeypatch.setattr(notify, "post", post)
    assert notify.notify(kept, "") == (0, "")
    (kept / "launch" / "notified.json").write_text('{"decisions": 1}')
    assert notify.notify(kept, "") == (1, "") and told == ["finished"]
    (kept / "launch" / "notified.json").unlink()
    assert notify.notify(kept, "") == (2, "")
    again, before = (json.loads((one / "launch" / "notified.json").read_text()) for one in (kept, KEPT))
    assert again["decisions"] == before["decisions"]


def test_kept_evaluations_of_a_chain_were_queued_and_ended(kept: Path) -> None:
    folder = kept / "launch"
    assert queued_steps(folder) == {24, 40}
    ended = [(line["step"], line["job"], line["exit_code"]) for line in noted(folder) if line["event"] == "ended"]
    assert ended == [(24, "33505001", 0), (40, "33505002", 0)]


def test_kept_figures_are_those_that_were_written_and_an_altered_one_is_damage(kept: Path) -> None:
    first, second = read_evaluations(kept)
    assert (first.step, first.job, first.host, first.device, first.question["by"]) == (
        24,
        "33505001",
        "n2",
        "cpu",
        "domain",
    )
    assert {figure.name: figure.value for figure in second.figures} == {
        "all/loss": 6.242732523416026, "all/perplexity": 514.2618252545217, "all/bits_per_byte": 2.8848624982938436,
        "code/loss": 6.1487613573233855, "code/perplexity": 468.1371728369362, "code/bits_per_byte": 2.8219005778053337,
        "prose/loss": 6.5994599758149155, "prose/perplexity": 734.6983272286302, "prose/bits_per_byte": 3.1320250311109565,
    }  # fmt: skip
    assert {
        (figure.num_samples, figure.num_tokens, figure.num_bytes) for figure in first.figures if figure.task == "all"
    } == {(5, 37995, 118618)}
    assert answered(kept, second) == second and answered(kept, replace(second, device="cuda")) is None
    path = kept / "evaluations" / "evaluation-00002.json"
    path.write_text(path.read_text().replace("6.242732523416026", "6.142732523416026"))
    with pytest.raises(DamageError, match=r"evaluation-00002\.json must have the content whose sha256"):
        read_evaluations(kept)


def test_a_kept_list_of_nodes_says_who_what_and_until_when_and_is_added_to(kept: Path) -> None:
    path = kept / "nodes-test.txt"
    entries, faults = read_list(path)
    broken = "preflight: cannot write to the run folder: No such file or directory"
    assert not faults and entries == [
        Entry(node="n1", until=datetime(2026, 12, 2, 13, 11, tzinfo=UTC), reason=broken, by=f"job {JOB}-0", added=ADDED),
        Entry(node="n2", until=datetime(2027, 10, 29, 21, 13, tzinfo=UTC), reason="slow fan", by="root", added="2026-11-30 13:12"),
    ]  # fmt: skip
    assert avoid.applied_nodes(path) == {"33505003": ["n1", "n2"]}
    assert avoid.allowed_nodes(path) == {"n3": datetime(2026, 11, 30, 13, 12, 15, tzinfo=UTC)}
    edit_list(path, add=[Entry(node="n9")])
    assert path.read_text().startswith("# Nodes that jobs of") and path.read_text().endswith("\nn9\n")
