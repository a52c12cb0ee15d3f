"""The writer process of a rank with a fault planted: ``WRITER_FAULT`` names a function of this file. The rest is real."""

import os
import sys
from pathlib import Path
from typing import Any

from pretrain.checkpoint import write_job, writer_process


def file_of_step_10_loses_its_end() -> None:
    """After rank 1 has hashed what it wrote, as a full or failing file system may."""
    write_file = write_job._write_file

    def broken(part: Path, path: str, *args: Any) -> Any:
        entry = write_file(part, path, *args)
        if "00001" in path and part.name == "step-00000010.part":
            os.truncate(part / path, entry.bytes - 1)
        return entry

    write_job._write_file = broken


if __name__ == "__main__":
    globals()[os.environ["WRITER_FAULT"]]()
    writer_process.main(int(sys.argv[1]), int(sys.argv[2]))
