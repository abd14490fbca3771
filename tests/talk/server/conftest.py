from collections.abc import Iterator

import pytest

from served import Running, serving


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    """A server whose model says the same to everybody."""
    with serving() as running:
        yield running
