"""Rules of a site: what is refused before a script is made of it."""

import math
import re
import shlex
from dataclasses import fields

from fanal.credentials import names_a_secret
from fanal.errors import UserError
from launch.sites.schema import ContainerConfig, EncodeConfig, QosConfig, SiteConfig

SET_BY_SCRIPTS = re.compile(
    r"(FANAL|PRETRAIN)_\w*|PYTHON|PYTHONPATH|PYTHONSAFEPATH|OMP_NUM_THREADS|SRUN_CPUS_PER_TASK|"
    r"launch_dir|run_dir|found|sha256|name|leaving|code|step|guard|old|next|chosen|nodes|mine|stands_by|watch|evaluations|prefix|parts|part"
)
"""Variables that scripts of jobs set for themselves: a site's would be lost, or lead them astray."""
ARCHITECTURES = ("x86_64", "aarch64")
INTERNET = ("everywhere", "login", "nowhere")
RUNTIMES = ("apptainer", "singularity", "pyxis", "edf")
EXAMPLES_OF_CONTAINERS = {"options": "--nv", "mounts": "/scratch", "modules": "apptainer", "python": "python3"}
CORES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
"""A list of cores, as the kernel writes one."""


def check_site(site: SiteConfig, where: str) -> None:
    """Refuse a site that no job can be rendered for.

    Raises: UserError naming the key, the value, the rule and what works.
    """
    for name, least in (
        ("gpus_per_node", 0),
        ("cores_per_node", 1),
        ("stop_margin_s", 1),
        ("max_restarts_without_checkpoint", 1),
        ("restarts_inside", 0),
    ):
        if getattr(site, name) < least:
            raise UserError(f"{where}: {name} ({getattr(site, name)}) must be at least {least}; {max(least, 1)} works")
    if site.gpus_per_node and not (
        site.gpu_memory_gib and math.isfinite(site.gpu_memory_gib) and site.gpu_memory_gib > 0
    ):
        raise UserError(f"{where}: gpu_memory_gib ({site.gpu_memory_gib}) must say the memory of one GPU; 80 works")
    if site.encode and site.encode.cores < 1:
        raise UserError(f"{where}: encode.cores ({site.encode.cores}) must be at least 1; 8 works")
    _check_words_of_few(site, where)
    _check_cores(site, where)
    if site.container:
        _check_container(site.container, where)
    _check_qos(site.qos, "qos", where)
    _check_qos(site.encode.qos if site.encode else [], "encode.qos", where)
    _check_words(site, where)
    _check_shell_texts(site, where)
    for ratio in fields(site.slow_step):
        value = getattr(site.slow_step, ratio.name)
        if not (1.0 < value < math.inf):
            raise UserError(
                f"{where}: slow_step.{ratio.name} ({value}) must be a ratio above 1 and finite; {ratio.default} works"
            )
    limits = site.node_check
    for limit in fields(limits):
        value = getattr(limits, limit.name)
        least = 0.0 if limit.name == "clock_s" else 1.0
        if not (least < value < math.inf):
            raise UserError(
                f"{where}: node_check.{limit.name} ({value}) must be above {least:g}; {limit.default} works"
            )


def _check_qos(offered: list[QosConfig], key: str, where: str) -> None:
    names = [qos.name for qos in offered]
    for number, qos in enumerate(offered):
        if not qos.name or names.index(qos.name) < number:
            rule = f"differ from that of {key}[{names.index(qos.name)}]" if qos.name else "not be empty"
            raise UserError(
                f"{where}: {key}[{number}].name ({qos.name!r}) must {rule}; a name that `sacctmgr show qos` lists works"
            )
        if not (0 < qos.max_hours < math.inf) or (qos.max_gpus is not None and qos.max_gpus < 1):
            raise UserError(
                f"{where}: qos {qos.name} must have max_hours ({qos.max_hours}) above 0 and max_gpus ({qos.max_gpus}) of at "
                "least 1 or null; max_hours: 20, max_gpus: null works"
            )
        if not 0 <= qos.min_gpus <= (math.inf if qos.max_gpus is None else qos.max_gpus):
            raise UserError(
                f"{where}: {key}[{number}].min_gpus ({qos.min_gpus}) must be from 0 to max_gpus ({qos.max_gpus}); 0 works"
            )


def _check_words_of_few(site: SiteConfig, where: str) -> None:
    """Refuse a word that is none of the few that a key takes."""
    runtime = site.container.runtime if site.container else RUNTIMES[0]
    for key, word, known in (
        ("architecture", site.architecture, ARCHITECTURES),
        ("internet", site.internet, INTERNET),
        ("container.runtime", runtime, RUNTIMES),
    ):
        if word not in known and not (key == "architecture" and word == ""):
            raise UserError(f"{where}: {key} ({word}) must be one of {', '.join(known)}; {known[0]} works")


def _check_cores(site: SiteConfig, where: str) -> None:
    """Refuse cores of ranks that are not cores, or not those of each GPU of a node."""
    for number, cores in enumerate(site.cores_of_ranks):
        if not CORES.fullmatch(cores):
            raise UserError(f"{where}: cores_of_ranks[{number}] ({cores!r}) must be a list of cores; 49-55 works")
    if site.cores_of_ranks and len(site.cores_of_ranks) != site.gpus_per_node:
        raise UserError(
            f"{where}: cores_of_ranks ({len(site.cores_of_ranks)} of them) must be as many as gpus_per_node "
            f"({site.gpus_per_node}), or none; [] works, and leaves it to bind_numa"
        )


def _check_container(container: ContainerConfig, where: str) -> None:
    """Refuse words and folders of a container that would not stay what they are on srun's command line."""
    words = {"python": container.python}
    for key in ("options", "mounts", "modules"):
        words |= {f"{key}[{number}]": word for number, word in enumerate(getattr(container, key))}
    for key, word in words.items():
        if not re.fullmatch(r"[A-Za-z0-9_./:=+@-]+", word):
            works = EXAMPLES_OF_CONTAINERS[key.partition("[")[0]]
            raise UserError(
                f"{where}: container.{key} ({word!r}) must be one word of letters, digits and _./:=+@-; {works} works"
            )


def _check_words(site: SiteConfig, where: str) -> None:
    """Refuse values that would not stay one word of a directive, or one line of a script."""
    encode = site.encode or EncodeConfig(cores=1)
    words = {"partition": site.partition, "constraint": site.constraint, "account_suffix": site.account_suffix}
    words |= {"hint": site.hint, "encode.partition": encode.partition, "encode.constraint": encode.constraint}
    words |= {"encode.account_suffix": encode.account_suffix, "encode.merge_partition": encode.merge_partition}
    words |= {f"name of qos {qos.name}": qos.name for qos in (*site.qos, *encode.qos)}
    words |= {f"partition of qos {qos.name}": qos.partition for qos in (*site.qos, *encode.qos)}
    for key, word in words.items():
        if re.search(r"[\s#\"'\\]", word):
            raise UserError(f"{where}: {key} ({word!r}) must be one word without quotes and #; gpu_p6 works")
    lines = {"description": site.description, "gpu_name": site.gpu_name}
    lines |= {f"environment.{name}.reason": variable.reason for name, variable in site.environment.items()}
    for key, line in lines.items():
        if not line.isprintable():
            raise UserError(f"{where}: {key} ({line!r}) must be one line; Slurm on CPUs works")


def _check_shell_texts(site: SiteConfig, where: str) -> None:
    """Refuse values that a shell would take for more than a text: they stand in double quotes, so that $NAME is filled in."""
    for name in site.environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"{where}: environment.{name} must be the name of a variable; NCCL_DEBUG works")
        if names_a_secret(name):
            raise UserError(
                f"{where}: environment.{name} must not be set by a site, since others read it and the scripts of jobs; a file that "
                "only you may read works, such as ~/.cache/huggingface/token"
            )
        if SET_BY_SCRIPTS.fullmatch(name):
            raise UserError(
                f"{where}: environment.{name} must not be set by a site, since the scripts of jobs set it; MY_{name} works"
            )
    texts = {f"environment.{name}.value": variable.value for name, variable in site.environment.items()}
    for key, text in {**texts, "node_local_dir": site.node_local_dir}.items():
        # Not ${NAME}, since omegaconf would fill it in when a job reads its site; and no $(command), $[sum] or $1.
        if not text.isprintable() or re.search(r"[\"`\\]|\$(?![A-Za-z_])", text):
            raise UserError(
                f"{where}: {key} ({text!r}) must be one line without double quotes, ` and \\, and $ only before the name of a "
                "variable; /tmp/$USER works"
            )
    for name, variable in site.environment.items():
        if variable.per_rank and not variable.value.startswith(("/", "$")):
            raise UserError(
                f"{where}: environment.{name}.value ({variable.value}) must be an absolute folder where per_rank is true; "
                "/tmp/mine-$USER works"
            )
    if site.node_local and not site.node_local_dir:
        raise UserError(
            f"{where}: node_local_dir, which is empty, must name a folder of each node where node_local is true; "
            "/dev/shm works on most nodes"
        )
    if site.node_local_dir and not site.node_local_dir.startswith(("/", "$")):
        raise UserError(
            f"{where}: node_local_dir ({site.node_local_dir}) must be absolute: it lies on each node; /dev/shm works"
        )
    for file_system in site.file_systems:
        command = file_system.quota_command
        if command and not _words_of(command):
            raise UserError(
                f"{where}: quota_command of file system {file_system.name} ({command!r}) must be a command, its quotes in "
                'pairs; idr_quota_user works, and "" for none'
            )


def _words_of(command: str) -> list[str]:
    """Split a command as a shell does; empty if it cannot."""
    try:
        return shlex.split(command)
    except ValueError:
        return []
