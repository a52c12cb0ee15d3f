"""The launcher's wait: a rank that dies between two looks at it is not taken for one that has ended well."""

from multiprocessing import Pipe
from pathlib import Path

from pretrain.parallel.local import _wait_for_all


class DyingRank:
    """Its end is seen by the second look at the exit code, not by the first."""

    def __init__(self) -> None:
        self.sentinel, self._end = Pipe(duplex=False)
        self._end.close()
        self._looks = iter((None, -9))

    @property
    def exitcode(self) -> int | None:
        return next(self._looks, -9)


class WaitingRank:
    """Never ends by itself: it is inside a collective with the other one."""

    def __init__(self) -> None:
        self.sentinel, self._end = Pipe(duplex=False)
        self.exitcode = None


def test_a_rank_that_dies_between_two_looks_is_a_failure_and_not_a_hang(tmp_path: Path) -> None:
    pipes = [Pipe(duplex=False) for _ in range(2)]
    failure = _wait_for_all([WaitingRank(), DyingRank()], [ours for ours, _ in pipes], tmp_path)
    assert failure is not None and failure.rank == 1
    assert "rank 1 was killed by SIGKILL" in failure.text
