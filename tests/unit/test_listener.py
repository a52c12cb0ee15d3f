"""Where a store listens: on one network of this machine, or on all with a reason."""

import errno
import socket
from collections.abc import Iterator

import pytest

from fanal.listener import listen_at


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Names that this machine knows, beside its own."""
    known: dict[str, str] = {}
    ask = socket.getaddrinfo

    def answer(host: str, *words: object, **options: object) -> object:
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(known.get(host, host), *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    yield known


def address(host: str, *, alone: bool) -> tuple[str, str]:
    """The address that is listened at, and the reason if it is every one."""
    listener, why = listen_at(host, 0, alone=alone)
    with listener:
        return listener.getsockname()[0], why


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
@pytest.mark.parametrize("alone", [True, False])
def test_loopback_is_meant_where_it_is_written(host: str, alone: bool) -> None:
    found, why = address(host, alone=alone)
    assert found in ("127.0.0.1", "127.0.0.2", "::1") and why == ""


def test_a_name_that_is_loopback_here_alone_would_keep_other_nodes_out(names: dict[str, str]) -> None:
    names["node1"] = "127.0.1.1"  # as Debian writes it into /etc/hosts
    assert address("node1", alone=True) == ("127.0.1.1", "")
    assert address("node1", alone=False) == ("::", "node1 is 127.0.1.1 here, where other nodes cannot come")


def test_an_address_that_is_not_this_machine_s_cannot_be_listened_at(names: dict[str, str]) -> None:
    names["node1"] = "192.0.2.1"  # of the block for documentation
    assert address("node1", alone=False) == ("::", "node1 is 192.0.2.1, which is no address of this machine")
    assert address("unknown", alone=False) == ("::", "unknown has no address that is known here")


def test_where_it_listens_on_all_networks_it_is_reached_by_both_kinds_of_address() -> None:
    listener, _ = listen_at("192.0.2.1", 0, alone=False)
    with listener:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, listener.getsockname()[1]), timeout=10).close()


def test_a_port_that_is_taken_is_told_by_its_error() -> None:
    with socket.create_server(("", 0)) as other, pytest.raises(OSError) as caught:
        listen_at("127.0.0.1", other.getsockname()[1], alone=True)
    assert caught.value.errno == errno.EADDRINUSE
