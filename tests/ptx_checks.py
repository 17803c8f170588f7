"""What the PTX machine runs of the kernels: every one, on the maps that layers really have, in checks with names.

QUICK has transform lengths of every kind, every tile of products and every form of every kernel once; FULL has every
length in every form and every tile on every problem. A check is run by its name, in whatever process.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from product_problem import Problem, check_chunks, check_pointwise, check_product, multiply, vector_width
from transform_problem import IN_CI, Pointer, check_inverse, check_transform
from transform_problem import Problem as Planes

from numba_fftconv import ConvGeometry
from numba_fftconv.cuda import fft2d, ptx_machine
from numba_fftconv.cuda.banks import Banks
from numba_fftconv.cuda.fft2d import size_name
from numba_fftconv.cuda.product import FORMS
from numba_fftconv.cuda.sums import Extents, sum_kernel
from numba_fftconv.cuda.tensor_tiles import TENSOR_TILES, TensorConfig
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Kernel
from numba_fftconv.gpus import MULTIPROCESSORS
from numba_fftconv.integers import Size
from numba_fftconv.options import CODELET_SIZES

MOST_SHARED = MULTIPROCESSORS[9, 0].block_shared  # kernels have as many planes a block as on sm_90
SQUARES = [(T, T) for T in CODELET_SIZES]
UNEQUAL = [(2, 64), (64, 2), (14, 8), (32, 64), (10, 24)]
LARGE = [(128, 4), (2, 256), (256, 8), (12, 128)]
SINGLY = (0, 3, 5)  # tiles of which QUICK has copies of single values as well
FORMED = ((8, 8), (14, 8))  # sizes that have every form in QUICK too
Check = Callable[[], None]


def launch(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    """Run what Numba makes of a kernel for sm_90; of a view its whole array, which must begin where the view does."""
    for argument in arguments:
        if isinstance(argument, Pointer):
            assert argument.view.__array_interface__["data"] == argument.base.__array_interface__["data"]
    ptx_machine.run(kernel, grid, tuple(x.base if isinstance(x, Pointer) else x for x in arguments))


# ---- transforms ------------------------------------------------------------------------------------------------------


def layers(size: Size) -> dict[str, ConvGeometry]:
    """Layers that need a size, by what they make of their maps; of odd sizes, so that rows and blocks are ragged.

    segments: overlap-save windows on both axes; spaced: stride and dilation, which put samples apart; small: what one
    quarter of a tile holds.
    """

    def layer(plane: tuple[int, int], taps: tuple[int, int], **options: Any) -> ConvGeometry:
        return ConvGeometry.from_arguments((1, 3, *plane), (5, 3, *taps), **options)

    R, C = size
    made = {"segments": layer((R + 1, C + 3), (1, 2 if C > 2 else 1), padding=((1, 0), (0, 2)))}
    if R >= 8 and C >= 8:
        made["spaced"] = layer((R + 3, C - 1), (2, 3), stride=(2, 3), dilation=(3, 2), padding=((2, 1), (0, 1)))
    if C >= 6:
        made["small"] = layer((R // 2, C // 2 - 1), (1, 2))
    return made


def planes(size: Size, layer: str, operand: str) -> Planes:
    """The planes of an operand of a layer as the engine would have them transformed, or inverse transformed to."""
    g = layers(size)[layer]
    shapes = {"x": g.input_shape, "dx": g.input_shape, "w": g.weight_shape}
    outer, channels, height, width = shapes.get(operand, g.output_shape)
    rows, columns = g.maps(operand, size)
    half = rows.end(height) <= size[0] // 2 and columns.end(width) <= size[1] // 2
    spaced = rows.spacing != 1 or columns.spacing != 1
    B = fft2d.tile_planes(size, MOST_SHARED)
    return Planes(size, B, outer, channels, height, width, rows, columns, half=half, spaced=spaced)


LOADED, STORED = ("x", "w", "y", "dy_halo"), ("y", "dx", "w")  # operands of the three passes, and results


def transforms(size: Size, layer: str, loaded: tuple[str, ...], stored: tuple[str, ...]) -> Iterator[tuple[str, Check]]:
    for operand in loaded:
        name = f"transform {size_name(size)} {layer} {operand}"
        yield name, lambda o=operand: check_transform(planes(size, layer, o), launch)
    for operand in stored:
        name = f"inverse {size_name(size)} {layer} {operand}"
        yield name, lambda o=operand: check_inverse(planes(size, layer, o), launch, True)


def accumulation(size: Size, layer: str, operand: str) -> tuple[str, Check]:
    name = f"inverse {size_name(size)} {layer} {operand} accumulate"
    return name, lambda: check_inverse(planes(size, layer, operand), launch, beta=-0.5)


# ---- products and sums -----------------------------------------------------------------------------------------------


def products(pass_name: str, tile: int) -> dict[str, Problem]:
    """Ragged problems for a tile: a pair of values a copy, one value a copy, several bins, groups, sums that go on."""
    config = TILES[tile]
    rows, columns, depth = config.BM, config.BN, config.BK
    return {
        "pairs": Problem(pass_name, rows - 2, columns - 4, depth + 2, gap=2),
        "single": Problem(pass_name, rows - 1, columns + 1, depth + 1),
        "one": Problem(pass_name, 1, 1, 1, gap=1),
        "groups": Problem(pass_name, 5, 3, 9, bins=2, groups=2, gap=3, accumulate=True),
        "deep": Problem(pass_name, rows + 2, 6, 3 * depth + 4, bins=2, gap=2, accumulate=True),
    }


SMALL = "32x32"  # of the tensor tiles: what QUICK runs in every precision and pass


def check_tensor(config: TensorConfig, pass_name: str) -> None:
    """Ragged edges, groups, sums that go on, several bins; no bank conflicts, 16 bytes a lane in loads."""
    rows, columns = config.BM, config.BN
    for problem in (
        Problem(pass_name, rows - 2, columns - 4, 10, gap=2),
        Problem(pass_name, rows + 2, columns + 2, 30, bins=2, gap=2, accumulate=True),
        Problem(pass_name, 6, 4, 10, groups=2, gap=4, accumulate=True),
        Problem(pass_name, 2, 2, 2),
    ):
        check_product(launch, problem, config, vec=2)
    problem, watch = Problem(pass_name, rows, columns, 16), Banks()
    multiply(partial(ptx_machine.run, observer=watch), problem, config, problem.arrays())
    assert {kind: accesses.ratio for kind, accesses in watch.kinds.items()} == {"cp.async.128": 1, "ld.128": 1}


def check_tensor_singly(config: TensorConfig, pass_name: str) -> None:
    """One value a copy, where extents or what lies between them are odd."""
    rows, columns = config.BM, config.BN
    check_product(launch, Problem(pass_name, rows - 1, columns + 1, 9), config)
    check_product(launch, Problem(pass_name, 5, 3, 9, bins=2, groups=2, gap=3, accumulate=True), config)
    check_product(launch, Problem(pass_name, 1, 1, 1, gap=1), config)


def _tensor(config: TensorConfig, pass_name: str) -> Iterator[tuple[str, Check]]:
    title = f"product {config} {config.precision} {pass_name}"
    yield f"{title} v2", partial(check_tensor, config, pass_name)
    yield f"{title} v1", partial(check_tensor_singly, config, pass_name)


def check_sums(images: int, height: int, width: int) -> None:
    """The bias gradient: sums over images and planes, filter by filter."""
    gy = np.random.default_rng(0).standard_normal((images, 3, height, width), np.float32)
    total = np.full(3, np.nan, np.float32)
    steps = (stride // gy.itemsize for stride in gy.strides)
    launch(sum_kernel(), (3, 1, 1), (gy, total, Extents(images, height, width, *steps)))
    exact = gy.astype(np.float64).sum((0, 2, 3))
    assert np.all(np.abs(total - exact) <= 2e-7 * np.abs(gy).sum((0, 2, 3)))


def _quick() -> Iterator[tuple[str, Check]]:
    for size in (*((T, T) for T in IN_CI), *UNEQUAL[:3], *LARGE[:2]):
        yield from transforms(size, "segments", ("x",), ("y",))
    for size in FORMED:
        for layer in ("spaced", "small"):
            yield from transforms(size, layer, LOADED, STORED)
        yield accumulation(size, "segments", "w")
    for tile in range(len(TILES)):
        for pass_name in FORMS:
            for name in ("pairs", "single") if tile in SINGLY else ("pairs",):
                yield _product(pass_name, tile, name)
    for pass_name in FORMS:
        for name in ("one", "groups", "deep"):
            yield _product(pass_name, 5, name)
        yield f"product pointwise {pass_name}", partial(check_pointwise, launch, pass_name, 35, 50, 3, True)
    for config in (config for of_one in TENSOR_TILES.values() for config in of_one if str(config) == SMALL):
        for pass_name in FORMS:
            yield next(_tensor(config, pass_name))
    yield "product in chunks", partial(check_chunks, launch, TILES[5], (16, 19))
    yield "sums", partial(check_sums, 3, 5, 37)


def _full() -> Iterator[tuple[str, Check]]:
    for size in (*SQUARES, *UNEQUAL, *LARGE):
        for layer in layers(size):
            yield from transforms(size, layer, LOADED, STORED)
            yield accumulation(size, layer, "w")
    for tile in range(len(TILES)):
        for pass_name in FORMS:
            for name in products(pass_name, tile):
                yield _product(pass_name, tile, name)
    for pass_name in FORMS:
        for rows, channels, multiplier in ((1, 1, 1), (35, 50, 3), (4, 129, 2), (130, 7, 1)):
            check = partial(check_pointwise, launch, pass_name, rows, channels, multiplier, rows > 4)
            yield f"product pointwise {pass_name} {rows} {channels} {multiplier}", check
    for config in (config for of_one in TENSOR_TILES.values() for config in of_one):
        for pass_name in FORMS:
            yield from _tensor(config, pass_name)
        chunks = partial(check_chunks, launch, config, (16, 24))
        yield f"product {config} {config.precision} in chunks", chunks
    for config in TILES:
        yield f"product {config} in chunks", partial(check_chunks, launch, config, (16, 19))
    for extents in ((1, 1, 1), (3, 5, 37), (2, 300, 3), (9, 1, 65)):
        yield f"sums {extents}", partial(check_sums, *extents)


def _product(pass_name: str, tile: int, name: str) -> tuple[str, Check]:
    problem = products(pass_name, tile)[name]
    title = f"product {TILES[tile]} {pass_name} {name} v{vector_width(pass_name, problem.shape, problem.pitches)}"
    return title, lambda: check_product(launch, problem, TILES[tile])


QUICK: dict[str, Check] = dict(_quick())
FULL: dict[str, Check] = {name: check for name, check in _full() if name not in QUICK}


def run(name: str) -> None:
    """One check, in this process."""
    (QUICK | FULL)[name]()
