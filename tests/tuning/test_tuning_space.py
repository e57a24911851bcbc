"""Configurations keep their values through codes and rows."""

from __future__ import annotations

from hwsearch.tuning.tuning_space import TuningSpace

CONFIGURATIONS = [(16, "row", 1.5, True, 7), (1024, "column", 2.0, False, 7), (128, "row", 2.0, True, 7)]
SPACE = TuningSpace.of(("block", "layout", "factor", "flag", "constant"), CONFIGURATIONS)


def test_rows_and_configurations_name_each_other() -> None:
    for row, settings in enumerate(CONFIGURATIONS):
        configuration = SPACE.configuration(row)
        assert tuple(configuration.values()) == settings
        assert SPACE.row_of(configuration) == row
    assert SPACE.row_of({**SPACE.configuration(0), "factor": 2.0}) is None
    assert SPACE.row_of({**SPACE.configuration(0), "block": 17}) is None
    assert SPACE.row_of({}) is None
