"""The number of files of a checkpoint, from its size and the number of ranks: for the ranks that write them, and for those who
ask beforehand whether there is room. Pure: nothing is opened here.

Shared file systems count files (inodes), and each costs its servers a dozen requests. So a rank writes one, and only where it has
much to write a few, which as many threads write, hash and read at once.
"""

from fanal.run_folder import COMPLETE, CONFIG, DATA, MANIFEST, ORIGIN, STATE, TENSORS

FILE_BYTES = 256 << 20
"""Size from which on a rank's part is cut: a second file is worth its inode when there is as much for each of them."""
MAX_FILES = 4
"""Limit of the files of a rank: more threads would take cores from the training, or bytes from a disk that has no more."""
FOLDERS = 2
"""The checkpoint's own, and the one of its tensors (run_folder.py)."""
SEALS = (MANIFEST, COMPLETE)


def files_of_a_rank(num_bytes: int, num_ranks: int) -> int:
    """Return the number of files that each rank writes of a checkpoint of ``num_bytes`` (pretrain/model/families/sizes.py): the
    same for every rank, however the layout deals out the bytes."""
    return max(1, min(MAX_FILES, num_bytes // (num_ranks * FILE_BYTES)))


def texts_of_a_checkpoint(*, has_origin: bool) -> tuple[str, ...]:
    """Return the names of the small files that rank 0 writes beside manifest and seal.

    Args: has_origin: whether the run started from another one's checkpoint."""
    return (STATE, DATA, CONFIG, TENSORS, *((ORIGIN,) if has_origin else ()))


def inodes(*, num_ranks: int, num_files: int, num_texts: int) -> int:
    """Return the files and folders of a complete checkpoint. Args: num_files, of each rank; num_texts, as above."""
    return FOLDERS + num_ranks * num_files + num_texts + len(SEALS)


def inodes_while_written(*, num_ranks: int, num_files: int, num_texts: int) -> int:
    """Return the most files and folders that it has until it is complete: before the manifest and the seal are there, every rank
    but the first leaves a note in a folder made for that (pretrain/checkpoint/saving/write_job.py)."""
    complete = inodes(num_ranks=num_ranks, num_files=num_files, num_texts=num_texts)
    return max(complete, complete - len(SEALS) + 1 + num_ranks - 1)
