"""Integer arithmetic that every folder needs."""


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
