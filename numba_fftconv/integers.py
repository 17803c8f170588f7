"""Integer arithmetic that every folder needs: rounding, and the compact bins of the spectrum of a real plane.

Of a real plane of rows x columns the bins at k and at -k are conjugates: half of the rows ky hold all, and of rows 0
and rows/2, whose mirror images are they themselves, half of the columns. This order of (ky, kx) is that of every
spectrum.
"""

Size = tuple[int, int]  # rows and columns: the transform lengths along both axes


def ceil_div(a: int, b: int) -> int:
    """The least integer that is not below a / b."""
    return -(-a // b)


def round_up(a: int, step: int) -> int:
    """The least multiple of `step` that is not below a.

    >>> round_up(17, 16)
    32
    """
    return ceil_div(a, step) * step


def area(size: Size) -> int:
    """Samples of a tile."""
    return size[0] * size[1]


def bins(size: Size) -> int:
    """Compact bins of a real plane: half of all, and the four that are their own conjugates twice.

    >>> [bins((T, T)) for T in (8, 16, 32, 64)], bins((2, 64))
    ([34, 130, 514, 2050], 66)
    """
    return area(size) // 2 + 2


def first_bin(size: Size, ky: int) -> int:
    """Where row ky of the half spectrum begins.

    >>> [first_bin((8, 8), ky) for ky in (0, 4, 1, 2, 3)]
    [0, 5, 10, 18, 26]
    """
    rows, columns = size
    return {0: 0, rows // 2: columns // 2 + 1}.get(ky, ky * columns + 2)


def bin_order(size: Size) -> list[tuple[int, int]]:
    """(ky, kx) of every bin: rows 0 and rows/2 as far as kx = columns/2, then the rows between at full length.

    >>> bin_order((4, 4))
    [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    """
    rows, columns = size
    edges = [(ky, kx) for ky in (0, rows // 2) for kx in range(columns // 2 + 1)]
    return edges + [(ky, kx) for ky in range(1, rows // 2) for kx in range(columns)]
