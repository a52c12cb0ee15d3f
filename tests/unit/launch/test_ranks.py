"""The end of a node's ranks: together where one fails, each at its own time where all are asked to stop."""

import subprocess
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest

from launch.chain import ranks
from launch.chain.ranks import PER_RANK, folders_of_rank, show, wait_for_all

ENDS_WELL = "sleep 0.3"
STOPS = "exit 75"
SAVES_FIRST = "trap 'sleep 1; exit 75' TERM; touch $0; while :; do sleep 0.1; done"
HEARS_NOTHING = "trap '' TERM; touch $0; while :; do sleep 0.1; done"


@pytest.mark.parametrize(
    ("programs", "code"),
    [
        ((ENDS_WELL, ENDS_WELL), 0), ((STOPS, STOPS), 75), ((STOPS, SAVES_FIRST), 75), ((ENDS_WELL, "exit 70"), 70),
        (("exit 2", HEARS_NOTHING), 137), (("kill -9 $$", SAVES_FIRST), 137),
    ],
)  # fmt: skip
def test_the_largest_code_is_the_node_s(
    programs: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "GRACE_S", 0.5 if HEARS_NOTHING in programs else 60.0)
    ready, begun = tmp_path / "ready", [tmp_path / str(number) for number in range(len(programs))]
    begin = f"trap '' TERM; touch $0; until [ -e {ready} ]; do sleep 0.05; done; "
    words = [program if "touch" in program else begin + program for program in programs]
    started = [subprocess.Popen(["bash", "-c", word, str(path)]) for word, path in zip(words, begun, strict=True)]
    while not all(path.exists() for path in begun):
        time.sleep(0.05)
    ready.touch()
    assert wait_for_all(started) == code


def test_a_file_is_shown_to_its_end(tmp_path: Path) -> None:
    log, shown, ended = tmp_path / "log", BytesIO(), threading.Event()
    log.write_bytes(b"first\n")
    thread = threading.Thread(target=show, args=(log, shown, ended))
    thread.start()
    with log.open("ab") as more:
        more.write(b"last\n")
    ended.set()
    thread.join(60)
    assert shown.getvalue() == b"first\nlast\n"


def test_a_rank_has_folders_of_its_own_where_the_site_says_so() -> None:
    names = {PER_RANK: "A_DIR B_DIR GONE", "A_DIR": "/tmp/a", "B_DIR": "/tmp/b", "C_DIR": "/tmp/c"}
    assert folders_of_rank(names, 3) == {"A_DIR": "/tmp/a/3", "B_DIR": "/tmp/b/3"}
    assert folders_of_rank({"A_DIR": "/tmp/a"}, 3) == {}
