"""The meeting of ranks: it says for whom it waits, ends on a signal, and a port that is taken is one line."""

import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fanal.errors import PassingError, UserError
from pretrain.parallel import rendezvous
from pretrain.parallel.rendezvous import meet

ROOT = Path(__file__).parents[3]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        free = listener.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free))
    return free


def test_ranks_that_come_late_are_waited_for_and_a_key_of_one_is_read_by_all(
    port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "SAY_AFTER_S", 0.1)
    stores = {}

    def come(rank: int) -> None:
        stores[rank] = meet(rank=rank, size=2, timeout_s=60, speaks=True)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
        time.sleep(0.5)
    for thread in threads:
        thread.join(60)
    stores[0].set("key", "value")
    assert stores[1].get("key") == b"value"
    assert f"waiting for rank 0 at 127.0.0.1:{port}" in capfd.readouterr().err


def test_a_rank_whose_peers_do_not_come_says_so_and_gives_up_in_one_line(
    port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "SAY_AFTER_S", 0.1)
    waiting = f"waiting for 2 ranks at 127.0.0.1:{port} (1 here); where nobody starts the others, `unset RANK WORLD_SIZE` works"
    with pytest.raises(PassingError, match=re.escape(f"{waiting}: given up after parallel.timeout_s (1)")):
        meet(rank=0, size=2, timeout_s=1, speaks=True)
    assert capfd.readouterr().err == f"{waiting}\n"


def test_a_port_that_is_taken_is_one_line_and_the_port_it_names_works(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        with pytest.raises(PassingError, match=rf"^MASTER_PORT \({port}\) must be free on .* works$") as caught:
            meet(rank=0, size=1, timeout_s=30, speaks=True)
        works = re.search(r"MASTER_PORT=(\d+) works", str(caught.value))
        assert works is not None
        monkeypatch.setenv("MASTER_PORT", works[1])
        meet(rank=0, size=1, timeout_s=30, speaks=True)


@pytest.mark.parametrize("value", ["x", "0", "65536", "-1", ""])
def test_a_port_that_cannot_be_is_refused_with_one_that_works(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", value)
    with pytest.raises(UserError, match=rf"MASTER_PORT \({value!r}\) must be a whole number from 1 to 65535"):
        meet(rank=0, size=1, timeout_s=1, speaks=True)


def test_a_store_that_goes_while_ranks_wait_is_one_line(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    master = "from pretrain.parallel.rendezvous import meet\nmeet(rank=0, size=3, timeout_s=60, speaks=False)"
    process = subprocess.Popen([sys.executable, "-c", master], cwd=ROOT)
    killer = threading.Timer(0.5, process.kill)
    store_of_torch = rendezvous.TCPStore

    def open_and_kill(*arguments: Any, **options: Any) -> Any:
        store = store_of_torch(*arguments, **options)
        killer.start()
        return store

    monkeypatch.setattr(rendezvous, "TCPStore", open_and_kill)
    with pytest.raises(PassingError, match=rf"no meeting of ranks at 127.0.0.1:{port}: "):
        meet(rank=1, size=3, timeout_s=60, speaks=False)
    killer.join()
    process.wait()
