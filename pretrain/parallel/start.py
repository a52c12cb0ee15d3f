"""The first moment of ``train``, before the imports that take a while. Imports nothing heavy."""

from pretrain.parallel.environment import note_start, started_by_launcher
from pretrain.parallel.signals import catch_stop_signals


def begin_train() -> None:
    """Note the time, and catch stop signals from now on: one that comes during the imports must not end the process."""
    note_start()
    catch_stop_signals(restart_system_calls=started_by_launcher())
