"""The figures of ``bench.context``: the least bytes by brute force, and the kernel's count of what a connection has sent."""

import socket

import pytest

from bench.context import least_bytes, parse, shape_of
from bench.context_rank import bytes_sent
from fanal.errors import UserError


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_least_is_what_queries_see_and_their_rank_does_not_have(num_ranks: int) -> None:
    shape, length = shape_of(64), 64
    owner = [
        min(chunk, 2 * num_ranks - 1 - chunk)
        for chunk in range(2 * num_ranks)
        for _ in range(length // (2 * num_ranks))
    ]
    seen = {(owner[query], key) for query in range(length) for key in range(query + 1) if owner[key] != owner[query]}
    keys_and_values = 2 * shape.num_groups * shape.head_size * 4
    assert least_bytes(shape, num_ranks) == 2 * len(seen) * keys_and_values * shape.num_layers / num_ranks


def test_bytes_are_those_that_went_through_a_connection() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
        server.accept()[0] as receiver,
    ):
        before = bytes_sent()
        sender.sendall(b"x" * 10_000)
        left = 10_000
        while left:
            left -= len(receiver.recv(left))
        assert bytes_sent() - before == 10_000


@pytest.mark.parametrize(
    ("arguments", "works"), [(["--lengths", "5000"], "--lengths 4096"), (["--only", "cp3"], "--only one")]
)
def test_wrong_arguments_name_one_that_works(arguments: list[str], works: str) -> None:
    with pytest.raises(UserError, match=works):
        parse(arguments)
    parse([arguments[0], works.split()[1]])
