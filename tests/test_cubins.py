"""Compiled CUDA kernels on disk: under which names, by whom they are read, and what becomes of damaged files."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from machine_code import compiles
from test_cache import World

from numba_fftconv.cuda import cubins, fft2d
from numba_fftconv.cuda.toolchain import Architecture, Binary, Kernel

pytestmark = compiles

HOPPER = (9, 0)
CALL = """
import hashlib
from numba_fftconv.cuda import cubins, fft2d
compiled, build = [], cubins.build
cubins.build = lambda *arguments: compiled.append(arguments) or build(*arguments)
kernel = fft2d.transform_kernel((8, 8), 4)
made = [cubins.binary(kernel, (9, 0)) for _ in range(2)][1]
print(cubins.file_of(kernel, (9, 0)), len(compiled), hashlib.sha256(repr(made).encode()).hexdigest())
"""
NAME = """
from numba_fftconv.cuda import cubins, fft2d
print(cubins.file_of(fft2d.transform_kernel((8, 8), 4), (9, 0)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk cache that is empty, and a memory that is."""
    monkeypatch.setattr(cubins, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(cubins, "_binaries", {})
    return tmp_path


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are compiled: to a few bytes, which the cache does not look into."""
    names: list[str] = []

    def build(kernel: Kernel, architecture: Architecture) -> Binary:
        names.append(kernel.name)
        return Binary(f"symbol_{kernel.name}", b"\x7fELF\0\n\0" + bytes(range(256)), f".target sm_{architecture[0]}\n")

    monkeypatch.setattr(cubins, "build", build)
    return names


def kernel(name: str = "some", module: str = fft2d.__name__, **bounds: int) -> Kernel:
    """A new one each time, which is not in memory yet."""

    def function() -> None: ...

    function.__module__ = module
    return Kernel(name, function, (), 32, 0, **bounds)


# ---- in processes of their own


def test_a_second_process_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the seed of its hashes."""
    world, said = World(tmp_path), []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        said.append(world.words(world.start(CALL)))
    (name, once, bits), (second_name, none, same_bits) = said
    assert (once, none) == ("1", "0")
    assert (name, bits) == (second_name, same_bits)
    assert [str(path) for path in Path(name).parent.iterdir()] == [name]
    assert Path(name).name.startswith("transform_t8_b4_16_")


@pytest.mark.parametrize("source", ["cuda/butterfly.py", "cuda/toolchain.py", "geometry.py"])
def test_an_edited_source_has_files_of_its_own(source: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    (before,) = world.words(world.start(NAME))
    path = world.package / source
    path.write_bytes(path.read_bytes() + b"\n")
    (after,) = world.words(world.start(NAME))
    assert after != before


# ---- names


def test_a_file_is_named_after_all_that_makes_it(folder: Path) -> None:
    names = [cubins.file_of(kernel(name), architecture) for name in ("a", "b") for architecture in (HOPPER, (8, 0))]
    names += [cubins.file_of(kernel("a", **{bound: 2}), HOPPER) for bound in ("least_blocks", "most_registers")]
    assert len(set(names)) == 6 and all(name.parent == folder for name in names)


def test_kernels_of_others_have_no_file(folder: Path, built: list[str]) -> None:
    """Of what they are made nothing says whether it has changed."""
    others = kernel(module="numba_fftconv_of_others")
    assert cubins.binary(others, HOPPER) is cubins.binary(others, HOPPER)
    assert built == ["some"] and not list(folder.iterdir())


@pytest.mark.parametrize("part", ["numba-cuda", "nvvm", "nvJitLink"])
def test_another_compiler_has_files_of_its_own(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cubins._compiler_hash()
    assert cubins._compiler_hash.__wrapped__() == before
    if part == "numba-cuda":
        monkeypatch.setattr(cubins.metadata, "version", lambda package: {part: "0.31.0"}[package])
    else:
        from cuda import pathfinder

        find = pathfinder.load_nvidia_dynamic_lib

        def elsewhere(name: str) -> Any:
            found = find(name)
            if name != part:
                return found
            other = tmp_path / Path(found.abs_path).name
            other.touch()
            return type("Found", (), {"abs_path": str(other)})

        monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", elsewhere)
    assert cubins._compiler_hash.__wrapped__() != before


# ---- files


def test_what_is_read_is_what_was_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real kernel."""
    made = cubins.binary(fft2d.transform_kernel((8, 8), 4), HOPPER)
    monkeypatch.setattr(cubins, "_binaries", {})
    monkeypatch.setattr(cubins, "build", lambda *_: pytest.fail("compiled though it is on disk"))
    assert cubins.binary(fft2d.transform_kernel((8, 8), 4), HOPPER) == made
    assert made.cubin.startswith(b"\x7fELF") and f".entry {made.symbol}(" in made.ptx


def damaged(data: bytes) -> dict[str, bytes]:
    places = {"first byte": 0, "byte of the symbol": 33, "last byte": len(data) - 1}
    flipped = {what: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for what, at in places.items()}
    return {"empty": b"", "half": data[: len(data) // 2], "checksum alone": data[:32], **flipped}


@pytest.mark.parametrize("what", damaged(bytes(64)))
def test_a_damaged_file_is_made_again(what: str, folder: Path, built: list[str]) -> None:
    made = cubins.binary(kernel(), HOPPER)
    path = cubins.file_of(kernel(), HOPPER)
    whole = path.read_bytes()
    path.write_bytes(damaged(whole)[what])
    assert cubins.binary(kernel(), HOPPER) == made
    assert built == ["some", "some"] and path.read_bytes() == whole
    assert cubins.binary(kernel(), HOPPER) == made and len(built) == 2


def test_a_folder_that_cannot_be_written_is_no_error(built: list[str], tmp_path: Path, folder: Path) -> None:
    cubins.file_of(kernel(), HOPPER).mkdir()  # nothing can be renamed to it
    assert cubins.binary(kernel(), HOPPER).symbol == "symbol_some"
    assert [path.is_dir() for path in folder.iterdir()] == [True], "a temporary file was left"


def test_a_folder_that_is_gone_is_no_error(built: list[str], folder: Path) -> None:
    folder.rmdir()
    assert cubins.binary(kernel(), HOPPER).symbol == "symbol_some"


# ---- threads


def test_threads_wait_for_one_compilation(folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight want the same kernel; one compiles it, and not before all have asked."""
    asked, fast, wanted = threading.Barrier(8), cubins.build, kernel()

    def slow(*arguments: Any) -> Binary:
        threading.Event().wait(0.2)
        return fast(*arguments)

    def ask(_: int) -> Binary:
        asked.wait(10)
        return cubins.binary(wanted, HOPPER)

    monkeypatch.setattr(cubins, "build", slow)
    with ThreadPoolExecutor(8) as pool:
        assert len({id(made) for made in pool.map(ask, range(8))}) == 1
    assert built == ["some"]


def test_different_kernels_do_not_wait_for_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def build(made: Kernel, architecture: Architecture) -> Binary:
        both.wait(10)  # passes if both compile at once
        return Binary(made.name, b"", "")

    monkeypatch.setattr(cubins, "build", build)
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda name: cubins.binary(kernel(name), HOPPER).symbol, ("a", "b"))
        assert list(made) == ["a", "b"]


def test_a_failed_compilation_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = kernel()
    results = iter([RuntimeError("no"), Binary("s", b"c", "p")])

    def build(*_: Any) -> Binary:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(cubins, "build", build)
    with pytest.raises(RuntimeError, match="no"):
        cubins.binary(wanted, HOPPER)
    assert cubins.binary(wanted, HOPPER).symbol == "s"
