"""Scripts of shipped configs on sites, for one layout that fits: of every config on one site, and of two configs on every site.

What a site adds to a script does not depend on the config, but for how many GPUs it takes. Golden files hold the scripts of the one
site whole, and of every other site what differs from these, both configs in one file. All are read by bash, shellcheck and Slurm.
"""

import difflib
from dataclasses import replace
from pathlib import Path

from launch.chain.evaluation_script import evaluation_script
from launch.chain.evaluations import Evaluations
from launch.chain.request import Job, Places, Request, plan_job
from launch.chain.script import files_of, script
from launch.sites.hours import takes
from launch.sites.schema import SiteConfig
from launch.sites.site import known_sites, load_site
from pretrain.config.derive import model_parallel_size, world_size
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "launch"
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "models" not in path.parts)
PLACES = Places(workdir=Path("/project"), code_dir=Path("/project"), python=Path("/project/.venv/bin/python"))
GOLDEN_CONFIG, GOLDEN_SITE = ROOT / "configs" / "lucie-7b" / "pretrain.yaml", "jean-zay-h100"
SPARED_SITES = (GOLDEN_SITE, "local")
HOURS = 50
"""More than a job may take on the sites that set a limit."""


CONFIGS_OF_SITES = (GOLDEN_CONFIG, ROOT / "configs" / "smoke_gpu.yaml")
"""Hundreds of GPUs, and one: the configs whose script is made for every site."""


def pairs() -> dict[str, tuple[Path, str]]:
    """Name of the script -> (config, site)."""
    return {
        name_of(config, site): (config, site)
        for site in known_sites()
        for config in (CONFIGS if site == GOLDEN_SITE else CONFIGS_OF_SITES)
    }


def name_of(config: Path, site: str) -> str:
    return f"{site}-{'-'.join(config.relative_to(ROOT / 'configs').with_suffix('').parts)}"


def cases() -> dict[Path, tuple[tuple[Path, str], ...]]:
    """Golden file -> (config, site) of the scripts that it is about."""
    whole = {FOLDER / f"{name_of(config, GOLDEN_SITE)}.sbatch": ((config, GOLDEN_SITE),) for config in CONFIGS}
    others = [site for site in known_sites() if site != GOLDEN_SITE]
    return whole | {FOLDER / f"{site}.diff": tuple((config, site) for config in CONFIGS_OF_SITES) for site in others}


def golden_file(path: Path) -> str:
    """What a golden file holds: a script, or what differs in those of a site."""
    if path.suffix == ".sbatch":
        return golden_text(*cases()[path][0])
    lines: list[str] = []
    for config, site in cases()[path]:
        base, theirs = (golden_text(config, one).splitlines() for one in (GOLDEN_SITE, site))
        of_base, of_theirs = (f"{name_of(config, one)}.sbatch" for one in (GOLDEN_SITE, site))
        lines += difflib.unified_diff(base, theirs, of_base, of_theirs, n=0, lineterm="")
    return "\n".join(lines) + "\n"


def write_all(folder: Path) -> list[Path]:
    """The scripts of all pairs, written into a folder; and those of a chain with spare nodes and evaluations, with GPUs and without."""
    texts = {name: golden_text(*pair) for name, pair in pairs().items()}
    for site in SPARED_SITES:
        job = spared_and_evaluated(site)
        assert job.evaluations is not None
        texts[f"{site}-spare"] = script(job, dict.fromkeys(files_of(job), "0" * 64))
        texts[f"{site}-evaluate"] = evaluation_script(job, job.evaluations)
    for name, text in texts.items():
        (folder / f"{name}.sbatch").write_text(text)
    return [folder / f"{name}.sbatch" for name in texts]


def spared_and_evaluated(site: str) -> Job:
    """The job of the golden config with two spare nodes, whose checkpoints are evaluated with all that may be asked."""
    wanted = Evaluations(
        every=2, tasks="arc_easy,hellaswag", by="language", include_path="/my tasks", packed="/packed", python="/lm eval/python",
        fewshot=5, limit=10,
    )  # fmt: skip
    return replace(golden_job(GOLDEN_CONFIG, site), spare_nodes=2, exclude=("n7", "n8"), evaluations=wanted)


def golden_job(config: Path, site_name: str) -> Job:
    """The job of a shipped config on a site, with what the site's GPUs ask to be changed, on as many nodes as it states."""
    site = load_site(site_name)
    overrides = [f"parallel.device={'auto' if site.gpus_per_node else 'cpu'}"]
    if not site.bf16:
        overrides.append("train.precision=fp32")
    run = load_run(config, overrides)
    return plan_job(run, site_name, site, _request(run, site), PLACES)


def golden_text(config: Path, site_name: str) -> str:
    """Its script. Its hashes are those of no file: they change with each config, and with the script of a node."""
    job = golden_job(config, site_name)
    return script(job, dict.fromkeys(files_of(job), "0" * 64))


def _request(run: RunConfig, site: SiteConfig) -> Request:
    """Replicas as the config states; where it leaves them open, two nodes, or one GPU for a config of one."""
    account = f"xyz@{site.account_suffix}" if site.account_suffix else "xyz" if site.needs_account else None
    hours = HOURS if site.qos else 20
    if not site.gpus_per_node:
        return Request(nodes=2 if world_size(run.parallel) % 2 == 0 else 1, hours=hours, account=account)
    if run.run_dir.endswith("smoke_gpu"):
        dev = next((qos for qos in site.qos if not qos.chain), None)
        hours = min(2, dev.max_hours) if dev else 2
        return Request(nodes=1, gpus_per_node=1, hours=hours, account=account, qos=dev.name if dev else None)
    if run.parallel.data_parallel_size is None:
        replica = model_parallel_size(run.parallel)
        return Request(nodes=max(2, replica // site.gpus_per_node), hours=hours, account=account)
    gpus = world_size(run.parallel)
    qos = next((qos.name for qos in site.qos if qos.chain and takes(qos, gpus)), None)
    return Request(nodes=gpus // site.gpus_per_node, hours=hours, account=account, qos=qos)


def regenerate() -> None:
    """One file per case, and none of a case that is gone."""
    FOLDER.mkdir(exist_ok=True)
    for old in set(FOLDER.iterdir()) - set(cases()):
        old.unlink()
    for path in cases():
        path.write_text(golden_file(path))
