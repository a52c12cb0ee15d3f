"""What ``fanal train`` does with a run: train as the rank that this process is, or start the ranks of the layout here.

Rooms are imported inside the functions, so that what can be checked is checked before torch and megatron-core come.
"""

import sys
import traceback

from fanal.errors import FanalError, full_disk, user_path
from fanal.exit_codes import CRASH, FINISHED, HANG, INTERRUPTED
from fanal.output import append_to_log, outlive_output
from pretrain.config.path_rules import paths_of
from pretrain.config.schema import RunConfig
from pretrain.parallel.environment import rank_and_size
from pretrain.parallel.quick_imports import quick_imports
from pretrain.parallel.signals import stop_signal


def train_rank(run: RunConfig) -> int:
    """Train as one rank of a world that torchrun or srun started."""
    from fanal.run_folder import rank_log

    with quick_imports():
        from pretrain.train.loop import train as train_run

    log = rank_log(run.run_dir, rank_and_size()[0])
    outlive_output(log)
    try:
        return int(train_run(run))
    except Exception as error:
        known = error if isinstance(error, FanalError) else full_disk(error, log=log)
        if known is None:
            raise  # its traceback belongs on the terminal
        append_to_log(log, traceback.format_exc())
        raise known from None


def train_local(run: RunConfig) -> int:
    """Train on local ranks; checks what can be checked before any starts."""
    from fanal.run_folder import LOGS_DIR, cannot_write, rank_log
    from pretrain.config.derive import world_size
    from pretrain.data.sources import open_sources
    from pretrain.log.elsewhere import check_sinks
    from pretrain.log.finished import finished_lines, is_finished

    check_sinks(run.log)
    with user_path(run.run_dir, *paths_of(run).values()):
        sources = open_sources(run, keeps_plans=True)
        if stop_signal() is None and is_finished(run, sources):
            print(*finished_lines(run, encoding=sys.stdout.encoding), sep="\n")
            return FINISHED

    from pretrain.checkpoint.loading.init_from import check_init_from
    from pretrain.log.run_dir import open_run_dir
    from pretrain.parallel.device_type import resolve_device
    from pretrain.parallel.local import run_local_ranks
    from pretrain.train.local_rank import local_rank
    from pretrain.train.memory import check_memory

    device_type, num_ranks = resolve_device(run.parallel.device), world_size(run.parallel)
    with user_path(run.run_dir, *paths_of(run).values()):
        check_init_from(run, tokenizer_sha256=sources.tokenizer_sha256)
        check_memory(run, device_type=device_type, num_ranks=num_ranks, ranks_here=num_ranks)
        folder = open_run_dir(run.run_dir)
        try:
            (folder / LOGS_DIR).mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(run.run_dir, f"{LOGS_DIR}: {error.strerror}", error) from None
    code, failure = run_local_ranks(
        local_rank,
        run,
        preload=["pretrain.train.preload"],
        num_ranks=num_ranks,
        device_type=device_type,
        log_dir=folder / LOGS_DIR,
    )
    if code == INTERRUPTED:
        print(
            "ended at once by a second Ctrl-C; the run continues from its newest checkpoint, if there is one",
            file=sys.stderr,
        )
    if failure is None:
        return code
    known = full_disk(failure.error, log=rank_log(folder, failure.rank)) or failure.error
    if isinstance(known, FanalError):
        raise known
    if code == HANG:
        print(failure.text, file=sys.stderr)
        return HANG
    print(f"rank {failure.rank} failed:\n{failure.text}", file=sys.stderr)
    return CRASH
