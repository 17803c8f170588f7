"""Integer arithmetic that every folder needs: rounding, and the compact bins of the spectrum of a real plane.

Of a real plane of T x T the bins at k and at -k are conjugates: half of the rows ky hold all, and of rows 0 and T/2,
whose mirror images are they themselves, half of the columns. This order of (ky, kx) is that of every spectrum.
"""


def ceil_div(a: int, b: int) -> int:
    """The least integer that is not below a / b."""
    return -(-a // b)


def round_up(a: int, step: int) -> int:
    """The least multiple of `step` that is not below a.

    >>> round_up(17, 16)
    32
    """
    return ceil_div(a, step) * step


def bins(T: int) -> int:
    """Compact bins of a real plane of T x T: half of all, and the four that are their own conjugates twice.

    >>> [bins(T) for T in (8, 16, 32, 64)]
    [34, 130, 514, 2050]
    """
    return T * T // 2 + 2


def first_bin(T: int, ky: int) -> int:
    """Where row ky of the half spectrum begins.

    >>> [first_bin(8, ky) for ky in (0, 4, 1, 2, 3)]
    [0, 5, 10, 18, 26]
    """
    H = T // 2
    return {0: 0, H: H + 1}.get(ky, ky * T + 2)


def bin_order(T: int) -> list[tuple[int, int]]:
    """(ky, kx) of every bin: rows 0 and T/2 as far as kx = T/2, then the rows between at full length.

    >>> bin_order(4)
    [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    """
    H = T // 2
    edges = [(ky, kx) for ky in (0, H) for kx in range(H + 1)]
    return edges + [(ky, kx) for ky in range(1, H) for kx in range(T)]
