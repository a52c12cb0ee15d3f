"""The script of every shipped config on every site, for one layout that fits.

Golden files hold those of one config on every site, and of every config on one site: what a site adds to a script does not
depend on the config, so a file for each pair would hold the same lines again. All pairs are read by bash, shellcheck and Slurm.
"""

from pathlib import Path

from launch.chain.request import Job, Places, Request, plan_job
from launch.chain.script import files_of, script
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
HOURS = 50
"""More than a job may take on the sites that set a limit."""


def pairs() -> dict[str, tuple[Path, str]]:
    """Name of the script -> (config, site), for every config on every site."""
    return {
        f"{site}-{'-'.join(config.relative_to(ROOT / 'configs').with_suffix('').parts)}": (config, site)
        for site in known_sites()
        for config in CONFIGS
    }


def cases() -> dict[Path, tuple[Path, str]]:
    """Golden file -> (config, site)."""
    return {
        FOLDER / f"{name}.sbatch": (config, site)
        for name, (config, site) in pairs().items()
        if config == GOLDEN_CONFIG or site == GOLDEN_SITE
    }


def write_all(folder: Path) -> list[Path]:
    """The scripts of all pairs, written into a folder."""
    paths = []
    for name, pair in pairs().items():
        paths.append(folder / f"{name}.sbatch")
        paths[-1].write_text(golden_text(*pair))
    return paths


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
    account = f"xyz@{site.account_suffix}" if site.account_suffix else None
    hours = HOURS if site.qos else 20
    if not site.gpus_per_node:
        return Request(nodes=2 if world_size(run.parallel) % 2 == 0 else 1, hours=hours, account=account)
    if run.run_dir.endswith("smoke_gpu"):
        return Request(nodes=1, gpus_per_node=1, hours=2, account=account, qos=_dev(site))
    if run.parallel.data_parallel_size is None:
        replica = model_parallel_size(run.parallel)
        return Request(nodes=max(2, replica // site.gpus_per_node), hours=hours, account=account)
    return Request(nodes=world_size(run.parallel) // site.gpus_per_node, hours=hours, account=account)


def _dev(site: SiteConfig) -> str | None:
    return next((qos.name for qos in site.qos if not qos.chain), None)


def regenerate() -> None:
    """One file per case, and none of a case that is gone."""
    FOLDER.mkdir(exist_ok=True)
    for old in set(FOLDER.iterdir()) - set(cases()):
        old.unlink()
    for path, (config, site) in cases().items():
        path.write_text(golden_text(config, site))
