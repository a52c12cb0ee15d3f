"""Encoding on many machines: what is refused, what is written, and that it runs, with a sbatch that only notes its arguments."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch import slurm
from launch.__main__ import cli
from launch.chain import jobs_file
from launch.encoding.encode import check_not_queued, plan_encode, queue, render_encode
from launch.encoding.job import retries
from launch.sites.site import known_sites
from tests.unit.launch.encoding import Encoding, account_of, site_of
from tokenizer.documents.column_fields import ColumnFields
from tokenizer.encoding.encode import encode

SHELLCHECK = shutil.which("shellcheck")


@pytest.mark.parametrize("site_name", known_sites())
def test_the_scripts_of_every_site_are_sound_shell(encoding: Encoding, site_name: str) -> None:
    folder = encoding.render(
        site_name, account=account_of(site_name), at_once=2, inputs=(str(encoding.data / "corpus"),)
    )
    for name in ("encode.sbatch", "merge.sbatch"):
        subprocess.run(["bash", "-n", str(folder / name)], check=True)
        if SHELLCHECK:
            found = subprocess.run([SHELLCHECK, str(folder / name)], capture_output=True, text=True)
            assert not found.stdout, found.stdout
        assert "gpu:" not in (folder / name).read_text()


def directives(path: Path) -> list[str]:
    lines = [line for line in path.read_text().splitlines() if line.startswith("#SBATCH ")]
    return [line.removeprefix("#SBATCH ").split("  #")[0] for line in lines]


def test_a_site_with_nodes_for_encoding_uses_them(encoding: Encoding) -> None:
    folder = encoding.render("jean-zay-h100", account="xyz@cpu", parts=8, at_once=3, workers=None)
    found = directives(folder / "encode.sbatch")
    for wanted in (
        "--partition=cpu_p1",
        "--account=xyz@cpu",
        "--qos=qos_cpu-t3",
        "--array=1-8%3",
        "--cpus-per-task=40",
    ):
        assert wanted in found
    assert f"--output={folder}/logs/%a.out" in found and "--time=01:00:00" in found
    assert not any("constraint" in line for line in found)
    assert "module load" not in (folder / "encode.sbatch").read_text(), "the site's modules are for its GPU nodes"
    merge = directives(folder / "merge.sbatch")
    assert "--partition=prepost" in merge and not any("qos" in line or "array" in line for line in merge)


def test_a_site_without_such_nodes_uses_its_own(encoding: Encoding) -> None:
    folder = encoding.render("generic", parts=2, workers=4)
    found = directives(folder / "encode.sbatch")
    assert "--array=1-2" in found and "--cpus-per-task=4" in found
    assert not any("gres" in line or "partition" in line or "account" in line for line in found)


def test_a_slot_that_is_a_partition_is_named_as_one(encoding: Encoding) -> None:
    folder = encoding.render("lumi-g", account="xyz", qos="small-g", parts=2, workers=4)
    for name in ("encode.sbatch", "merge.sbatch"):
        found = directives(folder / name)
        assert "--partition=small-g" in found and not any("--qos" in line for line in found)


def test_parts_are_encoded_and_merged_to_the_bytes_of_a_single_encode(encoding: Encoding) -> None:
    encoding.render()
    assert [encoding.task(part).returncode for part in (1, 3)] == [0, 0]
    # Two parts are done, one is missing.
    merging = encoding.run("merge.sbatch")
    assert merging.returncode == 75 and "part 2 was killed or never started" in merging.stdout
    assert encoding.queued() == [
        f"--parsable --array=2 {encoding.launch}/encode.sbatch",
        f"--parsable --dependency=afterany:101 {encoding.launch}/merge.sbatch",
    ]
    assert not encoding.prefix.with_suffix(".json").exists()
    before = {part: (encoding.folder / "out" / "code.parts" / f"{part}.bin").stat().st_mtime_ns for part in (1, 3)}
    assert [encoding.task(part).returncode for part in (1, 2, 3)] == [0, 0, 0]
    after = {part: (encoding.folder / "out" / "code.parts" / f"{part}.bin").stat().st_mtime_ns for part in (1, 3)}
    assert before == after, "a part that is there is left alone"
    assert encoding.run("merge.sbatch").returncode == 0
    assert len(encoding.queued()) == 2
    single = encoding.folder / "single"
    request = encoding.request()
    encode(request.tokenizer, request.inputs, single, shuffle_seed=7, num_workers=1, columns=ColumnFields())
    for end in (".bin", ".idx", ".documents.parquet", ".json"):
        assert Path(f"{encoding.prefix}{end}").read_bytes() == Path(f"{single}{end}").read_bytes()
    # Once it is there, both end at once and well.
    assert encoding.run("merge.sbatch").returncode == 0 and encoding.task(1).returncode == 0
    assert [record["event"] for record in jobs_file.read(encoding.launch)] == ["retried", "queued", "merged"]


def test_folders_and_further_options_reach_the_tokenizer(encoding: Encoding) -> None:
    encoding.render(
        parts=1, inputs=(str(encoding.data / "corpus" / "train"),), passed_on=("--domain", "a b", "--licence", "MIT")
    )
    done = encoding.task(1)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((encoding.folder / "out" / "code.parts" / "1.json").read_text())
    assert manifest["domain"] == "a b" and len(manifest["input_files"]) == 2


def test_missing_parts_are_queued_again_so_often_and_no_more(encoding: Encoding) -> None:
    encoding.render(retries=1, at_once=2)
    assert encoding.task(1).returncode == 0
    assert encoding.run("merge.sbatch").returncode == 75
    assert encoding.queued()[0] == f"--parsable --array=2,3%2 {encoding.launch}/encode.sbatch"
    given_up = encoding.run("merge.sbatch")
    assert given_up.returncode == 70 and len(encoding.queued()) == 2
    go_on = f"array=$(sbatch --parsable --array=2,3%2 {encoding.launch}/encode.sbatch) && "
    assert go_on in given_up.stderr and "need more than --hours 1" in given_up.stderr
    # A person starts it again: the counting begins anew.
    assert retries(encoding.launch) == 0
    assert encoding.run("merge.sbatch").returncode == 75


def test_wrong_input_is_not_tried_again(encoding: Encoding) -> None:
    bad = encoding.folder / "bad.jsonl"
    bad.write_text('{"text": "fine"}\nnot json\n')
    encoding.render(parts=1, inputs=(str(bad),))
    assert encoding.task(1).returncode == 2 and encoding.code(1) == "2"
    merging = encoding.run("merge.sbatch")
    assert merging.returncode == 2 and encoding.queued() == []
    assert "part 1 ended with exit code 2 (the input is wrong)" in merging.stderr
    assert "bad.jsonl" in merging.stderr, "the end of its log is quoted"


def test_a_damaged_part_is_not_tried_again(encoding: Encoding) -> None:
    encoding.render(parts=2)
    assert [encoding.task(part).returncode for part in (1, 2)] == [0, 0]
    part = encoding.folder / "out" / "code.parts" / "2.bin"
    part.write_bytes(part.read_bytes()[:-2])
    assert encoding.task(2).returncode == 76
    merging = encoding.run("merge.sbatch")
    assert merging.returncode == 76 and encoding.queued() == []
    assert f"remove {encoding.folder}/out/code.parts/2.*" in merging.stderr
    for path in part.parent.glob("2.*"):
        path.unlink()
    assert encoding.task(2).returncode == 0 and encoding.run("merge.sbatch").returncode == 0


def test_a_task_that_is_killed_leaves_no_old_exit_code(encoding: Encoding) -> None:
    encoding.render(parts=1)
    (encoding.launch / "exit-codes" / "1").write_text("2\n")
    encoding.fake("python", "#!/bin/bash\nkill -9 $PPID\n")
    script = encoding.launch / "encode.sbatch"
    script.write_text(script.read_text().replace(sys.executable, str(encoding.folder / "bin" / "python")))
    assert encoding.task(1).returncode == -9
    assert encoding.run("merge.sbatch").returncode == 75


def test_an_array_that_was_cancelled_is_not_queued_again(encoding: Encoding) -> None:
    encoding.render(parts=2)
    assert encoding.run("merge.sbatch").returncode == 75  # array 101
    encoding.fake(
        "scontrol", '#!/bin/bash\n[ "$4" = 101 ] && echo "JobId=7 ArrayJobId=101 JobState=CANCELLED Reason=None"\n'
    )
    merging = encoding.run("merge.sbatch")
    assert merging.returncode == 70 and len(encoding.queued()) == 2
    assert "the array was cancelled by hand. To continue: array=" in merging.stderr


def test_a_merge_that_cannot_queue_says_how_to_go_on(encoding: Encoding) -> None:
    encoding.render(parts=1)
    merging = encoding.run("merge.sbatch", REFUSING_SBATCH="1")
    assert merging.returncode == 70 and "refused" in merging.stderr and "To continue: array=" in merging.stderr


def test_a_merge_started_while_parts_are_encoded_waits_for_them(encoding: Encoding) -> None:
    encoding.render(parts=1)
    encoding.fake("squeue", "#!/bin/bash\necho 55\necho 55\n")
    assert encoding.run("merge.sbatch").returncode == 75
    assert encoding.queued() == [f"--parsable --dependency=afterany:55 {encoding.launch}/merge.sbatch"]
    assert retries(encoding.launch) == 0


def test_submit_queues_the_array_and_the_merge_after_it(encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in encoding.environment.items():
        monkeypatch.setenv(name, value)
    jobs = plan_encode("local", site_of("local"), encoding.request(), encoding.places)
    assert queue(render_encode(jobs), event="submitted") == ("101", "102")
    assert encoding.queued()[1] == f"--parsable --dependency=afterany:101 {encoding.launch}/merge.sbatch"
    encoding.fake("squeue", "#!/bin/bash\necho 101\necho 101\n")
    with pytest.raises(ValueError, match=r"has jobs in the queue \(101\); `scancel 101` ends them"):
        check_not_queued(jobs)


def test_an_array_without_its_merge_is_taken_back(encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[str] = []

    def ask(*command: str) -> str:
        if command[0] == "scancel":
            cancelled.extend(command[1:])
        if "--dependency=afterany:9" in command:
            raise slurm.SlurmError("refused")
        return "9\n" if command[0] == "sbatch" else ""

    monkeypatch.setattr(slurm, "ask", ask)
    jobs = plan_encode("local", site_of("local"), encoding.request(), encoding.places)
    with pytest.raises(slurm.SlurmError, match="refused"):
        queue(render_encode(jobs), event="submitted")
    assert cancelled == ["9"]


@pytest.mark.parametrize(
    ("site_name", "changes", "message"),
    [
        ("local", {"parts": 0}, r"--parts \(0\) must be at least 1"),
        ("local", {"retries": -1}, r"--retries \(-1\) must be at least 0"),
        ("local", {"at_once": 0}, r"--at-once \(0\) must be at least 1"),
        ("local", {"workers": 65}, r"--workers \(65\) must not be above the 64 cores .* --workers 64 works"),
        ("jean-zay-h100", {"workers": 41, "account": "xyz@cpu"}, r"the 40 cores of a task .*encode.cores"),
        ("jean-zay-h100", {"account": "xyz@h100"}, "--account xyz@cpu works"),
        ("jean-zay-h100", {"hours": 30.0, "account": "xyz@cpu"}, r"--hours \(30\) .* 20 h .* --qos qos_cpu-t4 fits"),
        ("jean-zay-h100", {"qos": "qos_gpu_h100-t3", "account": "xyz@cpu"}, "is not one of jean-zay-h100"),
        ("local", {"hours": None}, "--hours must say how long to run"),
        (
            "local",
            {"inputs": ("nowhere.jsonl",)},
            r"--input \(nowhere.jsonl\) does not exist: .* is there, has no nowhere.jsonl, and holds bin",
        ),
        ("local", {"tokenizer": "nowhere"}, r"--tokenizer \(nowhere\) must be the folder of a trained tokenizer"),
        ("local", {"output": "out/"}, r"--output \(out/\) must end in a name"),
        ("local", {"passed_on": ("--on-eror", "skip")}, "No such option.*--on-error skip works"),
        ("local", {"passed_on": ("skip",)}, "'skip' must be an option of `fanal tokenizer encode`"),
        ("local", {"passed_on": ("--workers=3",)}, "--workers must not be passed on .* --workers before the -- works"),
        ("local", {"passed_on": ("--part", "1/2")}, "--part must not be passed on .* each task has its own"),
    ],
)
def test_a_request_that_cannot_work_is_refused(encoding: Encoding, site_name: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_encode(site_name, site_of(site_name), encoding.request(**changes), encoding.places)


def test_an_output_that_compute_nodes_cannot_reach_is_refused(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", str(encoding.folder / "store"))
    request = encoding.request(account="xyz@cpu", output="store/code")
    with pytest.raises(ValueError, match=r"--output \(.*store/code\) lies on STORE .*cannot reach"):
        plan_encode("jean-zay-h100", site_of("jean-zay-h100"), request, encoding.places)


def test_an_output_that_is_there_is_refused(encoding: Encoding) -> None:
    encoding.prefix.parent.mkdir()
    Path(f"{encoding.prefix}.idx").touch()
    with pytest.raises(ValueError, match=r"must not exist yet, and .*code.idx does: nothing is overwritten"):
        encoding.render()


def test_parts_of_another_request_are_refused(encoding: Encoding) -> None:
    encoding.render(parts=3)
    encoding.render(parts=4)  # nothing is encoded yet
    (encoding.folder / "out" / "code.parts" / "1.json").write_text("{}")
    encoding.render(parts=4, hours=2.0, workers=2)
    with pytest.raises(ValueError, match=r"holds parts that were made with parts 4, not 5"):
        encoding.render(parts=5)
    with pytest.raises(ValueError, match="made with options"):
        encoding.render(parts=4, shuffle_seed=8)


@pytest.mark.parametrize("text", ["[1]", "{", "\xff"])
def test_parts_whose_request_is_not_known_any_more_are_refused(encoding: Encoding, text: str) -> None:
    folder = encoding.render()
    (folder / "encode.json").write_bytes(text.encode("latin-1"))
    encoding.render()  # no part is there yet
    (folder / "encode.json").write_bytes(text.encode("latin-1"))
    (encoding.folder / "out" / "code.parts" / "1.json").touch()
    with pytest.raises(ValueError, match=r"holds parts that were made with tokenizer \(unknown\), not "):
        encoding.render()


def test_the_command_line_takes_several_inputs_and_options_for_the_tokenizer(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(encoding.folder)
    texts = [str(encoding.data / "corpus" / "train" / name) for name in ("code.jsonl", "prose.jsonl")]
    words = ["render-encode", "--site", "local", "--tokenizer", str(encoding.data / "tokenizer"), "--input", *texts]
    words += ["--output", "out/code", "--parts", "2", "--hours", "1", "--", "--domain", "all", "--on-error", "skip"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    script = (encoding.launch / "encode.sbatch").read_text()
    assert f"--input {' '.join(texts)} \\" in script and "    --domain all --on-error skip\n" in script
    refused = CliRunner().invoke(cli, [*words, "--no-such"])
    assert refused.exit_code == 2 and "Traceback" not in refused.output and "No such option" in refused.output
