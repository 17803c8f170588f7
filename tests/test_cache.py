"""The disk cache of kernels, each time in processes of their own with a cache folder of their own.

They import a copy of the package, which a test may edit and which nobody else edits meanwhile.
"""
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import numba_fftconv

SECONDS = 120
PACKAGE = Path(numba_fftconv.__file__).parent
CALL = """
import hashlib, sys
import numpy as np
from numba.core import event
import numba_fftconv
from numba_fftconv import cache, plan_conv2d

with event.install_recorder("numba:compile") as compiled:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2, 6, 6), (3, 2, 3, 3)))
    y = plan_conv2d(x.shape, w.shape, fft_size=8, device="cpu").forward(x, w)
want = sum(x[:, None, :, r:r + 4, s:s + 4] * w[:, :, r, s, None, None] for r, s in np.ndindex(3, 3)).sum(2)
assert np.abs(y - want).max() < 1e-5 * np.abs(want).max(), "a wrong result"
print(numba_fftconv.__file__, len(compiled.buffer), hashlib.sha256(y.tobytes()).hexdigest(), cache.cache_directory())
"""
FOLDER = """
from numba_fftconv import cache
print(cache.source_hash(), cache.cache_directory())
"""


class Said(NamedTuple):
    """What a child printed that made CALL."""

    source: Path
    events: int  # of compilation
    bits: str
    folder: Path


class World:
    """A copy of the package and the folders that a process with it may use."""

    def __init__(self, root: Path) -> None:
        self.root, self.package, self.home, self.temporary = (root, root / "numba_fftconv", root / "home", root / "tmp")
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.home.mkdir()
        self.temporary.mkdir()

    def start(self, script: str, home: Path | None = None) -> subprocess.Popen[str]:
        """The script in a process that finds the copy of the package, with this cache folder of the user."""
        folders = {"XDG_CACHE_HOME": str(home or self.home), "TMPDIR": str(self.temporary)}
        environment = {**os.environ, **folders, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", script], cwd=self.root, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]

    def words(self, child: "subprocess.Popen[str]") -> list[str]:
        out, error = child.communicate(timeout=SECONDS)
        assert child.returncode == 0, error
        return out.split()

    def call(self, child: "subprocess.Popen[str]") -> Said:
        source, events, bits, folder = self.words(child)
        assert Path(source).parent == self.package
        return Said(Path(source), int(events), bits, Path(folder))

    def folder(self, home: Path | None = None) -> tuple[str, Path]:
        """The hash of the sources and the folder of the cache."""
        digest, folder = self.words(self.start(FOLDER, home))
        return digest, Path(folder)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[Said]]:
    """A world whose cache two processes have filled that began at the same time."""
    world = World(tmp_path_factory.mktemp("used"))
    return world, [world.call(child) for child in [world.start(CALL) for _ in range(2)]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_two_processes_that_begin_cold_both_succeed(used: tuple[World, list[Said]]) -> None:
    world, (one, two) = used
    assert max(one.events, two.events) > 0
    assert one.bits == two.bits and one.folder == two.folder
    assert one.folder.is_relative_to(world.home / "numba_fftconv")
    assert stat.S_IMODE(one.folder.stat().st_mode) == 0o700 or os.name == "nt"
    kernels = ["inverse_float32_8x8", "packed", "real", "place_lanes", "product_float32", "worker_float32", "watch"]
    names = sorted(path.name for path in one.folder.iterdir())
    assert all(any(kernel in name and name.endswith(".nbi") for name in names) for kernel in kernels)
    assert len(names) == 2 * len(kernels), names  # an index and one specialisation each, nothing left half written


def test_a_later_process_compiles_nothing(used: tuple[World, list[Said]]) -> None:
    world, (first, _) = used
    before = contents(first.folder)
    later = world.call(world.start(CALL))
    assert (later.events, later.bits, later.folder) == (0, first.bits, first.folder)
    assert contents(first.folder) == before


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_file_that_was_cut_off_is_made_again(used: tuple[World, list[Said]], suffix: str, part: float) -> None:
    """As a full disk or a lost connection leaves it; the process after it compiles nothing again."""
    world, (first, _) = used
    (damaged,) = (path for path in first.folder.iterdir() if "product" in path.name and path.suffix == suffix)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:int(part * len(whole))])
    try:
        again = world.call(world.start(CALL))
        assert again.events > 0 and again.bits == first.bits
        assert world.call(world.start(CALL)).events == 0
    finally:
        damaged.write_bytes(whole)


def test_an_edited_source_has_a_folder_of_its_own(world: World) -> None:
    """The codelets of every kernel stand in other files than the kernels: an edit of a comment there counts."""
    before = world.folder()
    assert world.folder() == before
    codelet = world.package / "cpu" / "butterfly.py"
    codelet.write_text(codelet.read_text(encoding="utf-8") + "# A remark.\n", encoding="utf-8")
    after = world.folder()
    assert after[0] != before[0] and after[1] != before[1]
    assert after[1].name == after[0] and before[1].name == before[0]


def test_a_home_that_cannot_be_written_leaves_the_temporary_folder(world: World) -> None:
    """A file stands where the folder should be, which stops every user, root too."""
    (world.root / "file").touch()
    digest, folder = world.folder(world.root / "file")
    assert folder.parent.parent == world.temporary and folder.name == digest
    assert folder.parent.name.startswith("numba_fftconv-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 or os.name == "nt"


def test_without_any_folder_it_makes_one_for_the_process(world: World) -> None:
    (world.root / "file").touch()
    _, usual = world.folder(world.root / "file")
    shutil.rmtree(usual.parent)
    usual.parent.touch()
    _, folder = world.folder(world.root / "file")
    assert folder.parent == world.temporary and folder.is_dir() and folder != usual.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 or os.name == "nt"


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_used(world: World) -> None:
    """What lies in it would be executed."""
    _, folder = world.folder()
    os.chown(folder, 12345, -1)
    assert world.folder()[1].parent.parent == world.temporary
