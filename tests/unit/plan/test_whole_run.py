"""The whole run of a plan: what it takes, what a site does not say, and warnings whose advice is followed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.errors import UserError
from launch.planning.place import Nodes, Place, machine_of_site
from launch.planning.plan import make_plan
from launch.planning.whole_run import WholeRunRequest, site_facts
from launch.sites.facts import PlanConfig, check_facts
from launch.sites.hours import choose_qos
from launch.sites.schema import FileSystemConfig
from launch.sites.site import load_site, read_site
from pretrain.config.load import load_run
from pretrain.config.schema import BatchRampConfig, BatchStageConfig, RunConfig
from pretrain.config.steps import global_batch_size_at
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.plan.batches import batch_sizes, batch_speeds
from pretrain.plan.energy import EnergyFacts
from pretrain.plan.estimate import estimate_step
from pretrain.plan.machine import FigureConfig, load_machine
from pretrain.plan.retention import checkpoint_inodes
from pretrain.plan.table import lines, to_json
from pretrain.plan.whole_run import Disk, SiteFacts, WholeRun, failure_rate, whole_run, with_tokens
from pretrain.plan.whole_run_table import whole_run_lines, whole_run_tree

ROOT = Path(__file__).parents[3]
H100 = load_machine("h100")
NO_FAILURES = FigureConfig(value=0, source="none")
FACTS = SiteFacts(
    name="here", gpus_per_node=4, slot_h=20, longest_h=20, slot_name="--slice-hours", stop_margin_s=600,
    start_up_s=FigureConfig(value=240, source="measured"), preflight_s=FigureConfig(value=60, source="measured"), disks=(),
    energy=EnergyFacts(),
)  # fmt: skip


def nodes(site: str | None, num_gpus: int) -> Nodes:
    loaded = None if site is None else load_site(site)
    machine = H100 if loaded is None else machine_of_site(loaded, str(site), "h100")
    return Nodes(machine=machine, machine_name="h100", num_gpus=num_gpus, site_name=site, site=loaded)


def one_b(*words: str) -> RunConfig:
    return load_run(ROOT / "configs" / "1b.yaml", ["parallel.data_parallel_size=8", *words])


def whole_of(run: RunConfig, facts: SiteFacts | None = FACTS, failures: FigureConfig = NO_FAILURES) -> WholeRun:
    return whole_run(estimate_step(run, H100, 8), H100, facts, failures=failures)


def disk(
    quota_bytes: int | None, quota_files: int | None, *, rate: float | None = None, holds_run: bool = True
) -> Disk:
    figure = None if rate is None else FigureConfig(value=rate, source="measured")
    return Disk(
        name="WORK", quota_bytes=quota_bytes, quota_files=quota_files, write_gb_per_s=figure, holds_run=holds_run
    )


BASE = one_b()


def test_hours_and_jobs_follow_from_steps() -> None:
    run = one_b("data.validation=[]")
    whole = whole_of(run)
    step_s = estimate_step(run, H100, 8).step_s
    assert whole.training_s == pytest.approx(25_000 * step_s)
    assert (whole.steps, whole.tokens, whole.validation_s) == (25_000, 25_000 * 256 * 4096, 0)
    jobs, a_job = whole.jobs, 20 * 3600 - 600 - 300
    assert jobs is not None and jobs.count == -(-whole.training_s // a_job)
    assert whole.gpu_hours == pytest.approx((25_000 * step_s + jobs.count * 300) * 8 / 3600)
    failing = whole_of(run, failures=failure_rate(None))
    assert failing.gpu_hours > whole.gpu_hours
    # Validations: 50 times 256 samples of one source, a third of their time in a step of 256.
    assert whole_of(one_b()).validation_s == pytest.approx(50 * step_s / 3)


def test_tokens_replace_steps() -> None:
    run = one_b("data.validation=[]", "train.batch_ramp={start: 64, increment: 64, samples: 10000}")
    for tokens in (1, 4096, 4097, 10**9, 26 * 10**9):
        planned = with_tokens(run, tokens)
        whole = whole_of(planned)
        assert tokens <= whole.tokens < tokens + 256 * 4096
        assert whole.steps == planned.train.train_steps
    assert with_tokens(run, None) is run
    with pytest.raises(UserError, match="--tokens 1000000000 works"):
        with_tokens(run, 0)


def test_without_a_site_its_answers_are_missing_and_say_why() -> None:
    whole = whole_of(one_b("run_dir=runs/x"), None)
    said = "\n".join(whole_run_lines(whole))
    assert whole.jobs is None and whole.slot is None
    for row in ("jobs           - (no --site)", "quota          - (no --site)", "write time     - (no --site)"):
        assert row in said
    assert "of nodes  - (no --site)" in said and "of site   - (no --site)" in said
    assert whole.boundaries[0].kwh == pytest.approx(whole.work_s / 3600 * 8 * 0.7)
    assert re.search(r"passes +- \(data\.tokenizer", said)


def test_a_site_that_says_little() -> None:
    facts = replace(FACTS, slot_h=None, longest_h=None, start_up_s=None, preflight_s=None)
    said = "\n".join(whole_run_lines(whole_of(one_b(), facts)))
    assert "jobs           - (site here states no qos; --slice-hours says how" in said
    said = "\n".join(whole_run_lines(whole_of(one_b(), replace(facts, slot_h=5.0))))
    words = " ".join(said.split())
    assert "each start - (start_up_s" in words and "counted as 0)" in words


@pytest.mark.parametrize("by_files", [False, True])
def test_a_quota_too_small_says_what_fits(by_files: bool) -> None:
    run = one_b("checkpoint.keep_last=null", "checkpoint.keep_every_steps=5000")
    size, files = checkpoint_bytes(run.model, num_states=3), checkpoint_inodes(run, num_ranks=8)[0]
    assert whole_of(run).checkpoints.most == 25
    small = disk(None, 8 * files) if by_files else disk(8 * size, 10**9)
    whole = whole_of(run, replace(FACTS, disks=(small,)))
    fit = whole.disks[0]
    assert fit.fits == (7 if by_files else 8)  # the one being written has notes beside its files
    assert whole.warnings == (
        f"warning: WORK has room for {fit.fits} of 25 checkpoints, its quota otherwise unused; {fit.advice}",
    )
    keep = re.search(r"checkpoint\.keep_last=(\d+) fits", fit.advice)
    assert keep is not None
    for last, fits in ((int(keep.group(1)), True), (int(keep.group(1)) + 1, False)):
        kept = replace(run, checkpoint=replace(run.checkpoint, keep_last=last))
        assert (not whole_of(kept, replace(FACTS, disks=(small,))).warnings) == fits
    elsewhere = whole_of(run, replace(FACTS, disks=(replace(small, holds_run=False),)))
    assert elsewhere.warnings == () and "do not fit" in "\n".join(whole_run_lines(elsewhere))


def test_writing_takes_its_time() -> None:
    run = one_b("checkpoint.interval=100")
    size = checkpoint_bytes(run.model, num_states=3)
    for rate, asynchronous in ((1.0, True), (1.0, False), (0.01, True)):
        kept = replace(run, checkpoint=replace(run.checkpoint, asynchronous=asynchronous))
        whole = whole_of(kept, replace(FACTS, disks=(disk(10**15, None, rate=rate),)))
        write_s = size / rate / 1e9
        assert whole.checkpoints.write_s == pytest.approx(write_s)
        assert whole.waiting_s == (0 if asynchronous else pytest.approx(249 * write_s))  # the last one is a job's end
        assert whole.slot is not None and whole.slot.save_s == pytest.approx(write_s)
        assert len(whole.warnings) == (2 if rate == 0.01 else 0)
    margin, interval = whole.warnings
    assert int(margin.split("--stop-margin-s ")[1].split()[0]) > write_s
    works = int(interval.split("works")[0].split("checkpoint.interval=")[-1])
    advised = replace(run, checkpoint=replace(run.checkpoint, interval=works))
    facts = replace(FACTS, stop_margin_s=write_s + 1, disks=(disk(10**15, None, rate=0.01),))
    assert whole_of(advised, facts).warnings == ()


def test_a_small_corpus_read_900_000_times_is_remarked(small_run: Path) -> None:
    run = load_run(small_run, ["parallel.device=cuda", "parallel.data_parallel_size=8", "train.global_batch_size=16"])
    once = whole_of(replace(run, train=replace(run.train, train_steps=1000)))
    most = max(once.sources, key=lambda source: source.passes)
    steps = int(900_000 / most.passes * 1000)
    whole = whole_of(replace(run, train=replace(run.train, train_steps=steps)))
    read = max(source.passes for source in whole.sources)
    assert read == pytest.approx(900_000, rel=0.01)
    said = " ".join(" ".join(whole_run_lines(whole)).split())
    assert f"{read:,.0f} over" in said and "a repeated token teaches less and less" in said
    works = re.search(r"train\.train_steps=(\d+) reads none more often", whole.warnings[0])
    assert works is not None
    advised = whole_of(replace(run, train=replace(run.train, train_steps=int(works.group(1)))))
    assert advised.warnings == () and 3.5 < max(source.passes for source in advised.sources) <= 4


@settings(max_examples=40)
@given(
    start=st.integers(1, 3), increments=st.integers(1, 4), samples=st.integers(1, 400), steps=st.integers(1, 60),
    later=st.one_of(st.none(), st.tuples(st.integers(1, 500), st.integers(1, 8))),
)  # fmt: skip
def test_batches_as_counted_step_by_step(
    start: int, increments: int, samples: int, steps: int, later: tuple[int, int] | None
) -> None:
    base = BASE
    stages = (
        [] if later is None else [BatchStageConfig(start_sample=samples + later[0], global_batch_size=8 * later[1])]
    )
    ramp = BatchRampConfig(start=8 * start, increment=8, samples=samples)
    train = replace(
        base.train, train_steps=steps, global_batch_size=8 * (start + increments), batch_ramp=ramp, batch_stages=stages
    )
    counted: list[list[int]] = []
    consumed = 0
    for _ in range(steps):
        batch = global_batch_size_at(train, consumed)
        consumed += batch
        if counted and counted[-1][0] == batch:
            counted[-1][1] += 1
        else:
            counted.append([batch, 1])
    assert [list(one) for one in batch_sizes(replace(base, train=train))] == counted


def test_a_ramp_costs_speed_where_a_bubble_or_the_update_is_shared_by_few() -> None:
    ramp = "train.batch_ramp={start: 64, increment: 64, samples: 100000}"
    layout = ["parallel.pipeline_model_parallel_size=2", "parallel.data_parallel_size=4"]
    run = load_run(ROOT / "configs" / "1b.yaml", [*layout, ramp])
    speeds = batch_speeds(estimate_step(run, H100, 8), H100)
    assert [one.global_batch_size for one in speeds] == [64, 128, 192, 256]
    assert [one.speed for one in speeds] == sorted(one.speed for one in speeds) and speeds[-1].speed == 1
    assert sum(one.tokens for one in speeds) == whole_of(run).tokens
    for one in speeds:
        full = one.tokens / speeds[-1].tokens * speeds[-1].gpu_hours
        assert one.lost_gpu_hours == pytest.approx(one.gpu_hours - full, abs=1e-9)
    said = "\n".join(whole_run_lines(whole_of(run)))
    assert "small batches  cost" in said and "64 samples, " in said
    assert "small batches" not in "\n".join(whole_run_lines(whole_of(one_b())))


def test_a_plan_for_a_site_says_the_whole_run() -> None:
    made = make_plan(
        str(ROOT / "configs" / "1b.yaml"), ["run_dir=runs/x", "train.micro_batch_size=2"],
        Place(site_name="jean-zay-h100", nodes=2), top=1, rehearsals=0, asked=WholeRunRequest(tokens=10**10, own=True),
    )  # fmt: skip
    own = made.whole_run
    assert own is not None and own.is_own and own.estimate.run.train.micro_batch_size == 2
    text = whole_run_lines(own)
    assert all(len(line) <= 100 for line in text) and lines(made)[-len(text) :] == text
    assert json.loads(to_json(made))["whole_run"] == json.loads(json.dumps(whole_run_tree(own)))
    facts = site_facts(nodes("jean-zay-h100", 8), one_b(), WholeRunRequest())
    best = whole_run(made.best[0], made.machine, facts, failures=failure_rate(None))
    assert best.gpu_hours < own.gpu_hours and best.tokens == own.tokens >= 10**10
    assert best.boundaries[2].kwh == pytest.approx(best.gpu_hours * 0.7 * 1.2)
    assert best.boundaries[2].co2_kg == pytest.approx(best.gpu_hours * 0.7 * 1.2 * 21.7e-3)


def test_a_site_of_cores_has_a_whole_run_too(tmp_path: Path) -> None:
    cores = ROOT / "tests" / "golden" / "formats" / "v3" / "plan" / "cores.yaml"
    made = make_plan(
        str(ROOT / "configs" / "tiny.yaml"), [f"run_dir={tmp_path}/x"], Place(site_name="local", nodes=1, gpu=str(cores)), top=1,
        rehearsals=0, asked=WholeRunRequest(slice_hours=20),
    )  # fmt: skip
    assert made.whole_run is not None and made.whole_run.jobs is not None and made.whole_run.jobs.count >= 1
    assert made.best[0].num_gpus == 2


def test_a_job_too_short_says_one_that_works() -> None:
    def planned(hours: float) -> WholeRun:
        return whole_of(one_b(), site_facts(nodes("jean-zay-h100", 8), one_b(), WholeRunRequest(slice_hours=hours)))

    with pytest.raises(UserError, match=r"--slice-hours \(0.1\) must be longer than a start") as caught:
        planned(0.1)
    short = planned(float(str(caught.value).split("--slice-hours ")[-1].split()[0]))
    assert short.jobs is not None and short.jobs.count > 1000


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (WholeRunRequest(slice_hours=-1), r"--slice-hours 20 works"),
        (WholeRunRequest(slice_hours=200), r"the 100 h that qos qos_gpu_h100-t4 .* --slice-hours 100 works"),
    ],
)
def test_slices_that_no_qos_allows(asked: WholeRunRequest, message: str) -> None:
    with pytest.raises(UserError, match=message):
        site_facts(nodes("jean-zay-h100", 8), one_b(), asked)
    facts = site_facts(nodes("jean-zay-h100", 8), one_b(), WholeRunRequest(slice_hours=100))
    assert facts is not None and facts.slot_h == 100
    with pytest.raises(UserError, match=r"--site jean-zay-h100 --nodes 2 .* works"):
        site_facts(nodes(None, 8), one_b(), asked)


def test_the_disk_of_the_run_folder_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORK", str(tmp_path))
    facts = site_facts(nodes("jean-zay-h100", 8), one_b(f"run_dir={tmp_path}/x"), WholeRunRequest())
    assert facts is not None and [one.name for one in facts.disks if one.holds_run] == ["WORK"]
    whole = whole_of(one_b(f"run_dir={tmp_path}/x"), facts)
    assert [fit.disk.quota_files for fit in whole.disks] == [500_000]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_wrong_figures_are_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--failures-per-1000-gpu-hours 0\.02 works"):
        failure_rate(value)
    for name, works in (("pue", "1.2"), ("co2_g_per_kwh", "100"), ("start_up_s", "100")):
        with pytest.raises(UserError, match=f"value of plan.{name} .* {works} works"):
            check_facts(PlanConfig(**{name: FigureConfig(value=value, source="x")}), [], "x.yaml")
        check_facts(PlanConfig(**{name: FigureConfig(value=float(works), source="x")}), [], "x.yaml")
    with pytest.raises(UserError, match=r"quota_gb of file system WORK .* 5000 works"):
        check_facts(PlanConfig(), [FileSystemConfig(name="WORK", quota_gb=value)], "x.yaml")
    site = (ROOT / "launch" / "sites" / "generic.yaml").read_text()
    (tmp_path / "site.yaml").write_text(
        f"{site}\nplan: {{pue: {{value: {value if value < 0 else '.nan'}, source: x}}}}\n"
    )
    with pytest.raises(UserError, match=r"value of plan.pue .* must be at least 1 and finite"):
        read_site(tmp_path / "site.yaml")


def test_the_slot_is_that_of_the_qos_that_launch_takes_by_default_or_of_the_named_one() -> None:
    def slot(qos: str | None, site: str = "jean-zay-h100", num_gpus: int = 8) -> tuple[float | None, str]:
        facts = site_facts(nodes(site, num_gpus), one_b(), WholeRunRequest(qos=qos))
        assert facts is not None
        return facts.slot_h, facts.slot_name

    by_launch, _ = choose_qos(
        load_site("jean-zay-h100").qos, None, hours=1000, slice_hours=None, num_gpus=8, where="jean-zay-h100"
    )
    assert by_launch is not None and slot(None) == (by_launch.max_hours, f"max_hours of qos {by_launch.name}")
    assert slot("qos_gpu_h100-t4") == (100, "max_hours of qos qos_gpu_h100-t4")
    assert slot(None, "leonardo", 512)[1].endswith("for which fanal launch needs --qos boost_qos_bprod")
    for qos, num_gpus in (("qos_gpu_h100-t4", 512), ("qos_gpu_h100-dev", 8), ("none", 8)):
        with pytest.raises(UserError, match=rf"--qos \({qos}\) must be .* --qos qos_gpu_h100-t3 works"):
            slot(qos, num_gpus=num_gpus)
    with pytest.raises(UserError, match=r"--qos \(x\) must stand beside --site"):
        site_facts(nodes(None, 8), one_b(), WholeRunRequest(qos="x"))
