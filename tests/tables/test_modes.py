"""The table of modes is consistent."""

from __future__ import annotations

import pytest

from qtool.tables.modes import MODES, Mode


@pytest.mark.parametrize("name", MODES)
def test_modes_have_their_names_and_a_description(name: str) -> None:
    assert MODES[name].name == name
    assert MODES[name].summary


@pytest.mark.parametrize("mode", MODES.values(), ids=lambda m: m.name)
def test_the_floors_of_a_mode_are_reachable(mode: Mode) -> None:
    # 8 bits on a uniform signal reach 6.02 * 8 dB; a floor above that refuses everything.
    assert 0 < mode.floor_db < 6.02 * mode.storage.bits
    assert 0 < mode.storage_floor_db < 6.02 * 8
    assert mode.storage_min_elements >= 1
    assert mode.least_typical_steps >= 0
