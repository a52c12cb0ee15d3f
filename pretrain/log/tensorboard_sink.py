"""TensorBoard: ``RUN_DIR/tensorboard``."""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

from fanal.run_folder import TENSORBOARD_DIR
from pretrain.log.scalars import Record, curves_of
from pretrain.log.sink import Opening

logger = logging.getLogger(__name__)


class TensorBoard:
    """Scalars by name; steps on the axis. Steps that are trained again after a resume replace the old ones."""

    def __init__(self, folder: Path, start_step: int) -> None:
        """Raises: OSError."""
        from torch.utils.tensorboard import SummaryWriter  # costs a second: only the rank that writes pays it

        self.lost = _no_curves(folder)
        # It opens its file through a link, if one has that name: nobody can foresee this one.
        self._writer = SummaryWriter(
            str(folder), purge_step=start_step + 1 if start_step else None, filename_suffix=f".{secrets.token_hex(8)}"
        )

    def write(self, record: Record) -> None:
        for name, value in curves_of(record):
            self._writer.add_scalar(name, value, record.step)

    def say(self, message: str) -> None: ...

    def step_done(self, step: int) -> None: ...

    def close(self) -> None:
        """Write out what is buffered."""
        try:
            self._writer.close()
        except OSError as error:
            logger.warning("%s: %s", self.lost, error.strerror or error)


@contextlib.contextmanager
def open_tensorboard(opening: Opening) -> Iterator[TensorBoard | None]:
    """Yield the sink of this start; None if its folder cannot be written."""
    folder = opening.run_dir / TENSORBOARD_DIR
    try:
        board = TensorBoard(folder, opening.stamp.start_step)
    except OSError as error:
        logger.warning("%s, and training continues: %s", _no_curves(folder), error.strerror or error)
        yield None
        return
    with contextlib.closing(board):
        yield board


def _no_curves(folder: Path) -> str:
    return f"{folder} cannot be written (its curves end here until the next start)"
