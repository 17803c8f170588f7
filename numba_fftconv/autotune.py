"""Measured choices: which size and kernels a layer runs fastest in on this GPU, and the file that keeps them.

The models of tuning.py and cuda/tiles.py choose without a GPU. `tune` times what they hold best on the device, in turn
the sizes of transforms, the planes of a block, and the tile of each pass's product, and keeps the fastest. The file is
JSON, to be read and shipped: a winner for each layer of each device.

    {"format": 1, "devices": {"NVIDIA H200": {"16x64x32x32 * 64x64x9x9, stride 1x1, ...": {
        "fft_size": [32, 32], "planes": 8, "tiles": {"forward": "128x64"}, "seconds": 0.00031, "version": "0.1.0"}}}}

What a plan cannot use is ignored with a warning that names the file, and a file of others is left as it is. A writer
replaces the file as a whole, holding a lock beside it, so that readers see all of it or nothing and writers lose
nothing of each other's.
"""

import contextlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from . import options, tuning
from .cache import user_folders
from .cuda.block_tile import BlockTile
from .cuda.kernels import MODELS, Kernels
from .cuda.middle import is_large
from .cuda.tensor_tiles import tiles_of
from .cuda.tiles import cost
from .errors import CudaError, FFTConvError, UnsupportedError
from .geometry import ConvGeometry
from .gpus import GRID_LIMIT
from .integers import Size, bins, ceil_div
from .passes import PASSES

FORMAT = 1
SIZES, TILES = 4, 4  # that are timed, the best by the models
RUNS = 5  # of a pass; the least of them counts


class Winner(NamedTuple):
    """The size and kernels of a layer."""

    size: Size
    kernels: Kernels


# ---- measuring -------------------------------------------------------------------------------------------------------


def tune(plan: Any, planned: Callable[[Size, Kernels], Any], device: Any, keep_size: bool) -> tuple[Winner, float]:
    """The fastest that was timed, and the seconds of its three passes; `planned` makes plans like `plan`."""
    arrays = _arrays(plan)

    def total(each: Any) -> float:
        return sum(sum(_stages(each, name, arrays).values()) for name in PASSES)

    sizes = [plan.fft_size]
    if not keep_size:
        asked = plan.geometry, plan.dtype, plan.target, plan.workspace_limit, plan.threads, plan.precision
        ranked = tuning.candidates(*asked)
        sizes += [choice.size for choice in ranked if choice.size != plan.fft_size][: SIZES - 1]
    size = _fastest(sizes, lambda size: total(planned(size, MODELS)))

    def transforms(planes: int) -> float:
        passes = [_stages(planned(size, Kernels(planes)), name, arrays) for name in PASSES]
        return sum(seconds for stages in passes for stage, seconds in stages.items() if stage != "multiply")

    planes = _planes(size, device)
    kernels = Kernels(_fastest(planes, transforms)) if planes else MODELS

    def multiply(name: str, each: Kernels) -> float:
        return _stages(planned(size, each), name, arrays)["multiply"]

    for name in PASSES if plan.geometry.groups < plan.geometry.C else ():  # else there is one kernel
        with_tiles = [kernels.with_tile(name, tile) for tile in _tiles(planned(size, kernels), name, device)]
        kernels = _fastest(with_tiles, partial(multiply, name))
    return Winner(size, kernels), total(planned(size, kernels))


def _fastest(choices: list[Any], seconds: Callable[[Any], float]) -> Any:
    """The one that takes least; where two take as long, the model's, which comes first and must run."""

    def taken(choice: Any) -> float:
        try:
            return seconds(choice)
        except (MemoryError, UnsupportedError, CudaError):  # more memory or registers than there are
            if choice is choices[0]:
                raise
            return math.inf

    return choices[0] if len(choices) == 1 else min(choices, key=taken)


def _arrays(plan: Any) -> dict[str, Any]:
    """Operands on the device of the plan, of any content: no kernel's time depends on it."""
    from .cuda import call

    shapes = plan.geometry.shapes
    return {name: call.unfilled(shapes[name], plan.dtype, plan.device) for name in ("input", "weight", "grad_output")}


def _stages(plan: Any, name: str, arrays: dict[str, Any]) -> dict[str, float]:
    """The least seconds of each stage of a pass, over a few runs of it."""
    operands = [arrays[operand] for operand in PASSES[name].operands]
    runs = [plan.profile(name, *operands) for _ in range(RUNS)]
    return {stage: min(run[stage] for run in runs) for stage in runs[0]}


def _planes(size: Size, device: Any) -> list[int]:
    """What a block may hold, that of the model first; nothing to choose where a transform takes two passes."""
    from .cuda import fft2d

    return [] if is_large(size) else fft2d.planes_for(size, device.shared_bytes)


def _fits(winner: Winner, precision: str, device: Any) -> bool:
    """Whether this version has the kernels, and the device the shared memory."""
    known = {str(tile) for tile in tiles_of(precision)}
    planes, tiles = winner.kernels.planes, winner.kernels.tiles
    held = planes is None or (type(planes) is int and planes in _planes(winner.size, device))
    return held and all(name in PASSES and tile in known for name, tile in tiles)


def _tiles(plan: Any, name: str, device: Any) -> list[BlockTile]:
    """The best tiles by the model for the products of a pass, of those that a grid has room for."""
    g, choice = plan.geometry, plan.choice.by_pass[name]
    windows = min(choice.schedule.chunk, choice.work.windows)
    rows, columns, depth = PASSES[name].extents(windows, g.C // g.groups, g.K // g.groups)
    able = [tile for tile in tiles_of(plan.precision) if ceil_div(rows, tile.BM) <= GRID_LIMIT]
    problem = rows, columns, depth, bins(plan.fft_size) * g.groups, device.multiprocessors, device.architecture
    return sorted(able, key=lambda tile: cost(tile, *problem))[:TILES]


# ---- the file --------------------------------------------------------------------------------------------------------


def default_path() -> Path:
    """The file of this user: beside the folders of compiled kernels."""
    return user_folders()[0] / "tuning.json"


def key(g: ConvGeometry, dtype: str, precision: str) -> str:
    """A layer in words.

    >>> key(ConvGeometry.from_arguments((2, 3, 8, 8), (4, 3, 3, 3), padding=1), "float32", "fp32")
    '2x3x8x8 * 4x3x3x3, stride 1x1, padding 1+1 x 1+1, dilation 1x1, groups 1, float32, fp32'
    """
    shapes = " * ".join("x".join(map(str, shape)) for shape in (g.input_shape, g.weight_shape))
    stride, dilation = ("x".join(map(str, pair)) for pair in (g.stride, g.dilation))
    padding = " x ".join(f"{low}+{high}" for low, high in g.padding)
    options_of_layer = f"stride {stride}, padding {padding}, dilation {dilation}, groups {g.groups}"
    return f"{shapes}, {options_of_layer}, {dtype}, {precision}"


def stored(path: Path, device: Any, g: ConvGeometry, dtype: str, precision: str) -> Winner | None:
    """What the file says of a layer on a device, if it says anything that the device has kernels for."""
    entry = (_devices(path) or {}).get(device.name, {}).get(key(g, dtype, precision))
    if entry is None:
        return None
    try:
        size = options.fft_size(tuple(entry["fft_size"]), g.smallest_fft())
        winner = Winner(size, Kernels(entry["planes"], tuple(sorted(entry["tiles"].items()))))
        if _fits(winner, precision, device):
            return winner
        said = f"this version has no such kernels: {winner.kernels}"
    except (FFTConvError, LookupError, TypeError, ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
    _warn(path, f"the entry {key(g, dtype, precision)!r} of {device.name!r} is ignored: {said}")
    return None


def store(path: Path, device: str, name: str, winner: Winner, seconds: float) -> None:
    """Add a winner to the file, or replace it; where it cannot be written, a warning."""
    entry = {
        "fft_size": list(winner.size), "planes": winner.kernels.planes, "tiles": dict(winner.kernels.tiles),
        "seconds": seconds, "date": f"{datetime.now(UTC):%Y-%m-%d}", "version": _version(),
    }  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if (devices := _devices(path)) is None:
                return
            devices.setdefault(device, {})[name] = entry
            text = json.dumps({"format": FORMAT, "devices": devices}, indent=1, sort_keys=True) + "\n"
            _replace(path, text)
    except OSError as error:
        _warn(path, f"it cannot be written, the winner is not kept: {error}")


def _version() -> str:
    try:
        return metadata.version("numba_fftconv")
    except metadata.PackageNotFoundError:  # run from its sources
        return "unknown"


def _devices(path: Path) -> dict[str, dict[str, Any]] | None:
    """Entries by device and layer, none where there is no file; None, and a warning, for one that is not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _warn(path, f"it is ignored: {error}")
        return None
    devices = found.get("devices") if isinstance(found, dict) and found.get("format") == FORMAT else None
    if not isinstance(devices, dict) or not all(isinstance(entries, dict) for entries in devices.values()):
        _warn(path, f"it is ignored: it is no tuning file of format {FORMAT}")
        return None
    return devices


def _replace(path: Path, text: str) -> None:
    """The file as a whole, at once."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(text)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among those who write the file, where the system has locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path.with_name(path.name + ".lock"), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _warn(path: Path, said: str) -> None:
    warnings.warn(f"tuning file {path}: {said}", stacklevel=2)


def chosen_path(value: Any) -> Path | None:
    """What a caller says of tuning: nothing, the user's own file, or a path."""
    if value is None or value is False:
        return None
    if value is True:
        return default_path()
    return options.path(value, "tuning")
