"""kill -9 at random moments: every finished measurement is in the study once, and the run goes on.

benchmarks/kill.py does the same fifty times.
"""

from __future__ import annotations

from kill import survive
from postgres_server import Postgres


def test_four_coordinators_of_one_study_in_postgresql_survive_kills(postgres: Postgres) -> None:
    """Of a coordinator, of a worker and of the database."""
    found = survive("postgresql", kills=5, coordinators=4, seed=0)
    assert (found["coordinator"], found["worker"], found["database"]) == (2, 2, 1)
    assert found["shapes"] > 4


def test_a_run_with_a_journal_survives_kills() -> None:
    found = survive("journal", kills=2, coordinators=1, seed=0)
    assert found["coordinator"] == found["worker"] == 1
