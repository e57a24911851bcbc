"""A PostgreSQL server for the tests of a shared study."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgres_server import Postgres, find_postgres, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    if find_postgres() is None:
        pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
    with postgres_server() as server:
        yield server
