"""The first moment of ``train``, before the imports that take a while. Imports nothing heavy."""

from fanal.output import guard_output
from pretrain.parallel.environment import note_start, started_by_launcher
from pretrain.parallel.signals import LAST_WORD_OF_RANKS_S, LAST_WORD_S, catch_stop_signals


def begin_train() -> None:
    """Note the time, and catch stop signals from now on: one that comes during the imports must not end the process."""
    note_start()
    guard_output()
    is_rank = started_by_launcher()
    catch_stop_signals(restart_system_calls=is_rank, last_word_s=LAST_WORD_S if is_rank else LAST_WORD_OF_RANKS_S)
