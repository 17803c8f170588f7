"""Machine code of kernels: from memory, else from disk, else compiled and kept in both.

On disk the folder is named after the sources of the package (cache.py), the file after the kernel, the architecture and
what compiles it. So a file is never out of date, and nothing in it has to be compared. A file that cannot be read or
that is not as it was written is compiled and written again; a folder that cannot be written costs time, no error.
Kernels that are not of this package have no file.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
from functools import cache
from importlib import metadata
from pathlib import Path

from ..cache import cache_directory
from ..errors import UnsupportedError
from .toolchain import Architecture, Binary, Kernel, build

_binaries: dict[tuple[Kernel, Architecture], Binary] = {}
_locks: dict[tuple[Kernel, Architecture], threading.Lock] = {}


def binary(kernel: Kernel, architecture: Architecture) -> Binary:
    """The machine code of a kernel. Threads that want the same one wait for one compilation."""
    key = kernel, architecture
    with _locks.setdefault(key, threading.Lock()):
        if key not in _binaries:
            path = file_of(kernel, architecture) if _is_ours(kernel) else None
            found = _read(path) if path else None
            if found is None:
                found = build(kernel, architecture)
                if path:
                    _write(path, found)
            _binaries[key] = found
        return _binaries[key]


def _is_ours(kernel: Kernel) -> bool:
    return kernel.function.__module__.split(".")[0] == __name__.split(".")[0]


def file_of(kernel: Kernel, architecture: Architecture) -> Path:
    """Where the machine code of a kernel lies, or will."""
    major, minor = architecture
    bounds = f"{kernel.threads}_{kernel.least_blocks}_{kernel.most_registers or 0}"
    return cache_directory() / f"{kernel.name}_{bounds}_sm_{major}{minor}_{_compiler_hash()}.cubin"


@cache
def _compiler_hash() -> str:
    """One hash over numba-cuda, libNVVM and nvJitLink.

    The libraries go by size and date: they may be of a CUDA toolkit, and what libNVVM calls its version is that of its
    language, which stays the same for years.
    """
    from cuda import pathfinder

    digest = hashlib.sha256(metadata.version("numba-cuda").encode())
    for name in ("nvvm", "nvJitLink"):
        try:
            library = Path(pathfinder.load_nvidia_dynamic_lib(name).abs_path or "")
        except RuntimeError as error:
            message = f"kernels are compiled with {name}, and it is not found: pip install 'numba_fftconv[cu13]'"
            raise UnsupportedError(message) from error
        status = library.stat()
        digest.update(f" {library.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:8]


def _read(path: Path) -> Binary | None:
    """What `_write` wrote, if all of it is there."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    checksum, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != checksum:
        return None
    symbol, ptx, cubin = body.split(b"\0", 2)  # a cubin alone holds zeros
    return Binary(symbol.decode(), cubin, ptx.decode())


def _write(path: Path, made: Binary) -> None:
    """To a file of its own, then renamed: other processes see nothing or all, whoever comes last."""
    body = b"\0".join((made.symbol.encode(), made.ptx.encode(), made.cubin))
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).digest() + body)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
