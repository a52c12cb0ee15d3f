"""The folder of a try of a job, once it is over: few files, since inodes are counted on clusters."""

import json
import shutil
import tarfile
from pathlib import Path

from fanal.new_files import create_file, write_new
from fanal.run_folder import LOGS_DIR
from launch.chain.script import EXIT_CODES


def tidy(attempt: Path, codes: dict[int, int], *, good: bool) -> None:
    """Pack all exit codes into one file, and the logs of an attempt that ended well into another. Args: codes by rank."""
    text = json.dumps({str(rank): code for rank, code in sorted(codes.items())}) + "\n"
    write_new(attempt / f"{EXIT_CODES}.json", text)
    logs = attempt / LOGS_DIR
    if good and logs.is_dir():
        with create_file(attempt / "logs.tar.gz") as stream, tarfile.open(fileobj=stream, mode="w:gz") as tar:
            tar.add(logs, LOGS_DIR)
        shutil.rmtree(logs, ignore_errors=True)
    shutil.rmtree(attempt / EXIT_CODES, ignore_errors=True)
