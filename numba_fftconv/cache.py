"""Compiled kernels: how they are compiled, where they lie on disk, and when they are out of date.

Numba's own disk cache looks at the file of the compiled function alone, so an edit of a codelet in another file would
go unseen; and it keeps all specialisations of a function behind one index that two processes may write at once. Here a
kernel's name tells its specialisation and is its file name, its stamp is one hash over all sources of the package, over
the versions of what compiles them and over the processor, and the folder is the user's own cache folder, never the
process-wide setting that belongs to the application.
"""

import contextlib
import gc
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import llvmlite
import numba
import numpy as np
from llvmlite import binding
from numba.core import caching, types
from numba.core.typing.templates import Signature


@cache
def source_hash() -> str:
    """One hash over the package's sources, the versions of what compiles them, and the processor."""
    processor = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    machine = f"{processor} {numba.config.CPU_NAME} {numba.config.CPU_FEATURES}"
    digest = hashlib.sha256(
        f"{sys.version} {numba.__version__} {llvmlite.__version__} {np.__version__} {machine}".encode()
    )
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def user_folders() -> list[Path]:
    """Where a user's caches may lie, best first."""
    places = {"win32": "%LOCALAPPDATA%", "darwin": "~/Library/Caches"}
    home = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform, "~/.cache")
    user = getattr(os, "getuid", lambda: "user")()
    return [
        Path(os.path.expandvars(home)).expanduser() / "numba_fftconv",
        Path(tempfile.gettempdir()) / f"numba_fftconv-{user}",
    ]


def _is_ours(folder: Path) -> bool:
    """Whether the folder can be written and, with the one above, belongs to this user: what is in it will be run."""
    with tempfile.TemporaryFile(dir=folder):
        return not hasattr(os, "getuid") or {folder.stat().st_uid, folder.parent.stat().st_uid} == {os.getuid()}


@cache
def cache_directory() -> Path:
    """A writable folder for this state of the sources: below the user's cache folder, else below the temporary one."""
    for root in user_folders():
        folder = root / source_hash()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_ours(folder):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="numba_fftconv-"))


class _Locator(caching._CacheLocator):
    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return "cpu"

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls()


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar = [_Locator]


class KernelCache(caching.FunctionCache):
    """The disk cache of one kernel, whose name must tell its specialisation."""

    _impl_class = _CacheImpl

    def load_overload(self, sig: Signature, target_context: Any) -> Any:
        """What lies on disk, or None; files that cannot be read are given up, and written anew after compilation."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever unpickling raises on a file that was cut short
            self.flush()
            return None


INDICES = types.Array(types.int64, 1, "C")


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Compilation makes millions of objects that are no garbage; to search them for it takes a tenth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compiled(name: str, signature: Signature, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a kernel of that name, from the disk cache if it is there: no GIL, no bounds checks."""
    function.__name__ = function.__qualname__ = name
    dispatcher = numba.njit(nogil=True, boundscheck=False, error_model="numpy")(function)
    dispatcher._cache = KernelCache(dispatcher.py_func)
    with no_collections():
        dispatcher.compile(signature)
    dispatcher.disable_compile()  # for other types: a call with them is a mistake of the engine, not a wish
    return dispatcher


@cache
def address(kernel: Any) -> int:
    """Where the machine code of a kernel begins, for compiled code that calls it."""
    (result,) = kernel.overloads.values()
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
