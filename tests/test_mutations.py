"""Which ring of tests sees which of the faults of mutations.py: each cell of that table is a test, printed at the end.

Every fault is seen by one ring at least, and sound code by none. A fault of each sort runs always; the same sort in
another place, with `-m slow`.
"""

import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from machine_code import compiles
from mutations import FAULTS, RINGS, Fault, Ring, copied, run

pytestmark = compiles

Cells = dict[tuple[Fault | None, Ring], Future[str]]
EVERY = [pytest.param(fault, id=str(fault), marks=[pytest.mark.slow] * fault.is_variant) for fault in FAULTS]


class Table:
    """The plugin that prints the cells that were run, once all tests are."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("seeded faults, and what the rings say of them")
        for (fault, ring), cell in self.cells.items():
            if not cell.cancelled():
                said = "did not run" if cell.exception() else cell.result()
                terminalreporter.write_line(f"{fault or 'sound code'!s:50} {ring.name:14} {said or '-'}")


@pytest.fixture(scope="module")
def cells(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    """The runs of those that were chosen, two at a time."""
    pytest.importorskip("greenlet")
    own = [item for item in request.session.items if item.fspath == __file__ and "cells" in item.fixturenames]
    chosen = [(item.callspec.params["fault"], item.callspec.params["ring"]) for item in own]

    folder = tmp_path_factory.mktemp("packages")  # not by the threads: pytest makes its folders one at a time

    def fill(fault: Fault | None, ring: Ring) -> str:
        return run(ring, copied(fault, Path(tempfile.mkdtemp(dir=folder))))

    pool = ThreadPoolExecutor(2)
    cells = {cell: pool.submit(fill, *cell) for cell in chosen}
    request.config.pluginmanager.register(Table(cells))
    try:
        yield cells
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
@pytest.mark.parametrize("fault", [pytest.param(None, id="sound code"), *EVERY])
def test_a_ring_sees_what_it_can(fault: Fault | None, ring: Ring, cells: Cells) -> None:
    said = cells[fault, ring].result()
    assert re.search(fault.seen_by.get(ring.name, "^$") if fault else "^$", said)


def test_every_fault_is_seen() -> None:
    assert all(fault.seen_by.keys() <= {ring.name for ring in RINGS} and fault.seen_by for fault in FAULTS)


def test_a_fault_whose_place_is_gone(tmp_path: Path) -> None:
    fault = Fault("lost", "geometry.py", "no such line", "", {})
    with pytest.raises(LookupError, match=r"lost: what it changes stands 0 times in geometry\.py.* a new place"):
        copied(fault, tmp_path)
