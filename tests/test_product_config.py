"""Tiles of the product kernel: which are valid, which is chosen, and the launches: plain numbers, no GPU."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fftconv.cuda import pointwise, tensor_tiles
from numba_fftconv.cuda.product import Pitches, Shape, grid, group_steps, launches, vector_width
from numba_fftconv.cuda.tensor_tiles import TENSOR_TILES
from numba_fftconv.cuda.tiles import BLOCK_SHARED_BYTES, TILES, choose_tile, cost, valid
from numba_fftconv.errors import UnsupportedError
from numba_fftconv.gpus import GRID_LIMIT, find_gpu
from numba_fftconv.integers import ceil_div, round_up

EXTENT = st.integers(1, 3000)


def test_every_tile_of_the_table_is_valid() -> None:
    assert [config for config in TILES if valid(config)] == list(TILES)
    assert len(set(TILES)) == len(set(map(str, TILES))) == len(TILES)


@pytest.mark.parametrize("precision", TENSOR_TILES)
def test_tensor_tiles(precision: str) -> None:
    """All valid, told apart by their size; ragged edges take a small one; a multiprocessor holds 8 warps or more."""
    tiles = TENSOR_TILES[precision]
    assert all(map(tensor_tiles.valid, tiles)) and {tile.precision for tile in tiles} == {precision}
    assert len(set(tiles)) == len(set(map(str, tiles))) == len(tiles)
    assert all(tile.resident * tile.threads // 32 >= 8 for tile in tiles)
    chosen = {
        problem: str(choose_tile(*problem, 132, (9, 0), tiles))
        for problem in ((512, 512, 512, 514), (1, 256, 256, 546), (256, 3, 1000, 546), (20, 24, 64, 2050))
    }
    assert chosen[512, 512, 512, 514] in ("128x128", "128x64", "64x64")
    assert list(chosen.values())[1:] == ["16x64", "64x16", "32x32"]


@pytest.mark.parametrize("change", [
    {"WM": 24}, {"WN": 8}, {"BM": 80}, {"BN": 40}, {"BK": 16}, {"stages": 1}, {"stages": 7}, {"BM": 16, "BN": 16},
    {"BM": 1024, "BN": 128},
], ids=str)  # fmt: skip
def test_invalid_tensor_tiles(change: dict[str, int]) -> None:
    """Fragments or warps that do not tile, another slab, no pipeline, too much memory, idle threads, too many."""
    tile = TENSOR_TILES["tf32x3"][0]
    assert tensor_tiles.valid(tile)
    assert not tensor_tiles.valid(dataclasses.replace(tile, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"BM": 96}, {"TM": 3}, {"BK": 6}, {"BK": 7}, {"stages": 1}, {"stages": 5}, {"TM": 16, "TN": 8},
        {"TN": 1}, {"BM": 8, "TM": 4},
    ],
    ids=str,
)  # fmt: skip
def test_invalid(change: dict[str, int]) -> None:
    """From 64x64, 8x4: threads that do not tile, odd neighbours, banks in conflict, no pipeline, too much memory."""
    assert valid(TILES[3])
    assert not valid(dataclasses.replace(TILES[3], **change))


def test_shared_memory_and_residence() -> None:
    """The numbers of the table in DESIGN: 46080 bytes and two blocks of 128x64, 30720 and four of 64x64."""
    assert [(c.threads, c.shared_bytes(), c.resident) for c in TILES[:4:2]] == [(256, 40960, 1), (256, 46080, 2)]
    assert (TILES[3].threads, TILES[3].shared_bytes(), TILES[3].resident) == (128, 30720, 4)
    assert TILES[1].shared_bytes(False, False) == 36864
    assert all(config.shared_bytes() <= BLOCK_SHARED_BYTES for config in TILES)


@pytest.mark.parametrize(
    "rows, columns, depth, bins, allowed",
    [
        (128, 192, 64, 546, {"128x64", "64x64", "64x128", "128x128"}),  # large in every way
        (128, 384, 192, 130, {"64x64", "128x64", "64x128", "128x128"}),
        (1, 256, 256, 130, {"8x64"}),  # one image
        (16, 64, 64, 514, {"16x64"}),
        (16, 3, 64, 546, {"16x16", "64x8"}),
        (32, 64, 64, 514, {"32x32", "32x64"}),
        (32, 32, 32, 2050, {"32x32"}),
    ],
)
def test_choice(rows: int, columns: int, depth: int, bins: int, allowed: set[str]) -> None:
    assert str(choose_tile(rows, columns, depth, bins)) in allowed


# Layers as products: rows, columns, depth, bins and the tile taken. For few channels, one image or few of a group.
LAYERS = [
    ("128x3x128x128 -> 96 forward", 2048, 96, 3, 514, "64x64x4"),
    ("128x3x128x128 -> 96 input_grad", 2048, 3, 96, 514, "64x8"),
    ("128x3x128x128 -> 96 weight_grad", 96, 3, 2048, 514, "64x8"),
    ("128 images, 1 channel, forward", 128, 64, 1, 514, "64x64x4"),
    ("128 images, 1 channel, weight_grad", 64, 1, 128, 514, "64x8"),
    ("128 images, 4 channels, forward", 128, 64, 4, 514, "64x64x4"),
    ("128 images, 4 channels, input_grad", 128, 4, 64, 514, "64x8"),
    ("128 images, 2 channels, weight_grad", 64, 2, 128, 514, "64x8"),
    ("1 image of 64 channels, forward", 1, 64, 64, 514, "8x64"),
    ("1 image of 256 channels, forward", 1, 256, 256, 130, "8x64"),
    ("1 image of 256 channels, input_grad", 1, 256, 256, 130, "8x64"),
    ("1 image of 256 channels, weight_grad", 256, 256, 1, 130, "64x64x4"),
    ("4 images of 64 channels, forward", 4, 64, 64, 514, "8x64"),
    ("16 images of 64 channels, forward", 16, 64, 64, 514, "16x64"),
    ("32 groups of 4 channels, forward", 128, 4, 4, 32 * 514, "64x8"),
    ("128x64x64x64 -> 128 forward", 128, 128, 64, 2050, "128x128"),
    ("128x128x32x32 -> 128 forward", 128, 128, 128, 578, "128x64"),
    ("128x384x13x13 -> 384 forward", 128, 384, 384, 130, "128x128"),
]


@pytest.mark.parametrize("title, rows, columns, depth, bins, tile", LAYERS, ids=[layer[0] for layer in LAYERS])
def test_padding_hides_behind_memory(title: str, rows: int, columns: int, depth: int, bins: int, tile: str) -> None:
    """Multiply-adds of whole tiles take at most 1.3 times those asked for, or 1.3 times what memory takes, on H200."""
    config, gpu = choose_tile(rows, columns, depth, bins), find_gpu()
    assert str(config) == tile
    whole = round_up(rows, config.BM) * round_up(columns, config.BN) * round_up(depth, config.BK)
    values = rows * columns + depth * (rows + columns)
    compute, memory = 8 * bins * whole / gpu.flops, 8 * bins * values / gpu.bandwidth
    assert whole <= 1.3 * rows * columns * depth or compute <= 1.3 * memory


def test_an_older_gpu_has_fewer_lanes_and_places() -> None:
    """Where arithmetic decides, a multiprocessor of sm_80 takes twice the clocks; what waits for memory does not."""
    of = {sm: cost(TILES[3], 4096, 4096, 1024, 514, 108, sm) for sm in ((8, 0), (8, 6), (9, 0), (12, 0))}
    assert 1.8 < of[8, 0] / of[9, 0] < 2.2 and of[12, 0] == of[9, 0]


def test_more_rows_than_a_grid_has_blocks() -> None:
    """Tiles that are too low for them are not taken."""
    rows = 12 * GRID_LIMIT
    assert ceil_div(rows, choose_tile(rows, 64, 4, 34).BM) <= GRID_LIMIT < ceil_div(rows, 8)


@given(EXTENT, EXTENT, EXTENT, st.integers(1, 3000), st.sampled_from([1, 80, 108, 132, 144]))
def test_choice_is_the_cheapest_and_does_not_waste(
    rows: int, columns: int, depth: int, bins: int, processors: int
) -> None:
    chosen = choose_tile(rows, columns, depth, bins, processors)
    costs = [cost(config, rows, columns, depth, bins, processors) for config in TILES]
    assert cost(chosen, rows, columns, depth, bins, processors) == min(costs) > 0
    if columns <= 16 and rows >= 64 and bins >= 500:
        assert chosen.BN <= 32
    if rows <= 16 and columns >= 64 and bins >= 500:
        assert chosen.BM <= 32


@given(st.sampled_from(TILES), EXTENT, EXTENT, st.integers(1, 200_000), st.integers(1, 70_000))
def test_launches_cover_every_bin_once(config, rows: int, columns: int, bins: int, groups: int) -> None:
    if groups > GRID_LIMIT:
        with pytest.raises(UnsupportedError, match=str(groups)):
            next(launches(config, rows, columns, bins, groups))
        return
    if groups > 64:
        bins = min(bins, 500)  # a launch each at worst
    expected = 0
    for first, some, (x, y, z) in launches(config, rows, columns, bins, groups):
        assert first == expected and some > 0
        assert z == some * groups <= GRID_LIMIT and y <= GRID_LIMIT
        assert (x - 1) * config.BN < columns <= x * config.BN and (y - 1) * config.BM < rows <= y * config.BM
        expected += some
    assert expected == bins


def test_too_many_rows() -> None:
    rows = TILES[5].BM * GRID_LIMIT
    assert grid(TILES[5], rows, 1, 1)[1] == GRID_LIMIT
    assert len(list(launches(TILES[5], rows, 1, 1))) == 1
    with pytest.raises(UnsupportedError, match=f"{rows + 1} rows are 65536 tiles of 32"):
        list(launches(TILES[5], rows + 1, 1, 1))


@pytest.mark.parametrize(
    "pass_name, steps", [("forward", (5, 21, 3)), ("input_grad", (5, 55, 3)), ("weight_grad", (2, 3, 26))]
)
def test_group_steps(pass_name: str, steps: tuple[int, int, int]) -> None:
    """Columns count once, rows a leading dimension each."""
    assert group_steps(pass_name, Shape(2, 3, 5, 10, 7 if pass_name == "forward" else 11, 13, 4, 0)) == steps


@pytest.mark.parametrize("pass_name", ["forward", "input_grad", "weight_grad"])
def test_vector_width(pass_name: str) -> None:
    """Pairs only where all that they depend on is even."""
    even, pitches = Shape(6, 8, 4, 12, 16, 20, 1, 0), Pitches(100, 200, 300)
    assert vector_width(pass_name, even, pitches) == 2
    assert vector_width(pass_name, even, pitches._replace(b=201)) == 1
    assert all(vector_width(pass_name, even._replace(**{ld: 13}), pitches) == 1 for ld in ("lda", "ldb"))
    for odd in ({"ldy": 13}, {"columns": 7}):
        assert vector_width(pass_name, even._replace(**odd), pitches) == (2 if pass_name == "forward" else 1)
        assert vector_width(pass_name, even._replace(**odd), pitches, "tf32") == 1  # stores of pairs in every pass
    assert vector_width(pass_name, even._replace(rows=5), pitches) == (1 if pass_name == "weight_grad" else 2)
    assert vector_width(pass_name, even._replace(depth=5), pitches) == (2 if pass_name == "weight_grad" else 1)


def test_pointwise_grid() -> None:
    shape = pointwise.Depthwise(33, 100, 2, 0)
    assert pointwise.grid("forward", shape, 7) == (2, 2, 7)
    assert pointwise.grid("input_grad", shape, 7) == (1, 2, 7)
    assert pointwise.grid("weight_grad", shape, 7) == (2, 1, 7)
