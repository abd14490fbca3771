"""Does the upper bound come from clients that read every token?"""

from falconer.bench.serve_ceiling import client_ceiling
from falconer.bench.serve_load import Talk


def test_the_clients_read_a_server_that_computes_nothing() -> None:
    talks = [Talk(("I like dogs.",), ("Hello!",) * 6)]
    assert client_ceiling(talks, 8, 1, 16, seconds=0.5) > 500
