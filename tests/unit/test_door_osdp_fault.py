# SPDX-License-Identifier: Apache-2.0
"""A reader at an access controller whose library fails: told, and nobody is taken for reported."""

from __future__ import annotations

from typing import Any

import pytest

from agent.clock import SystemClock
from agent.door.osdp import OsdpPanels, PanelSpec, make_device
from agent.errors import PosternError
from tests.simulators.control_panel import KEY, control_panel
from tests.unit.test_door_osdp import CARD, wait_for

pytestmark = pytest.mark.timeout(120)


class Failing:
    """A device of libosdp whose looks at the line fail while ``faults`` has one."""

    def __init__(self, device: Any, faults: list[Exception]) -> None:
        self._device, self._faults = device, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def refresh(self) -> None:
        if self._faults:
            raise self._faults[0]
        self._device.refresh()


def test_a_fault_of_the_library_is_told_and_the_reader_is_there_again() -> None:
    """The thread that looks at the line ended without a word, and reports were taken for heard."""
    problems: list[PosternError] = []
    faults: list[Exception] = []
    panels = OsdpPanels(lambda *told: Failing(make_device(*told), faults))
    with control_panel(answer=lambda card: None) as panel:
        unit = panels.open_panel(PanelSpec(panel.device, 0, 9600, KEY), SystemClock(), problems.append)
        try:
            assert wait_for(unit.is_secure)
            faults.append(MemoryError("secret"))
            assert wait_for(lambda: not unit.is_secure())
            assert not unit.report(CARD), "nobody is told that a controller heard of them"
            faults.clear()
            told = [str(problem) for problem in problems]
            assert sum("fault of libosdp (MemoryError): start the unit again" in one for one in told) == 1
            assert "secret" not in "".join(told)
            assert wait_for(unit.is_secure, within_s=40)
            assert unit.report(CARD)
            assert wait_for(lambda: [card for _, card in panel.reads] == [CARD])
        finally:
            unit.close()
