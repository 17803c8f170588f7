"""The loop that every worker of a pass runs: claim a task, run its steps, until none is left.

One compiled call does all that a thread has to do, so that threads meet neither in Python nor over its lock. Claims and
the counts of finished tasks are atomic additions to `state`: [next claim, tasks finished of stage 0, of stage 1, ...].
A worker whose stage waits for the one before it looks again PATIENCE times, then goes back to Python to sleep; its
claim stays in `claims`, so that none is lost, whatever interrupts the thread. Kernels are called by their addresses:
the loop is compiled once for all of them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from ..cache import INDICES, compiled
from .by_address import invert_by, multiply_by, transform_by
from .fft2d import AT
from .product import W_AT, X_AT, Y_AT
from .program import ARGUMENTS, FIRST, HI, INVERSE, KERNEL, LO, MULTIPLY

PATIENCE = 1_000_000  # looks, some tenths of a millisecond: a thread that sleeps costs tens of microseconds to wake
NO_CLAIM = -1


@intrinsic
def add_to(typing_context, array, index, amount):  # type: ignore[no-untyped-def]
    """array[index] += amount, at once for all threads; returns what was there before."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "acq_rel")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def look(typing_context, array, index):  # type: ignore[no-untyped-def]
    """array[index] as other threads have written it."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "acquire", 8)

    return types.int64(array, types.intp), codegen


def place(at, own):  # type: ignore[no-untyped-def]
    """A place in the workspace, for the worker whose own region begins at `own` (see program.private)."""
    return at if at >= 0 else own - 1 - at


own_place = njit(inline="always")(place)


def arguments(step: np.ndarray, own: int) -> tuple[int, int, int, np.ndarray]:
    """Kernel, lo and hi of a step, and what the kernel knows of the spectra: what the compiled loop makes of it."""
    where = step[ARGUMENTS:].copy()
    for at in (X_AT, Y_AT, W_AT) if step[KERNEL] == MULTIPLY else (AT,):
        where[at] = place(where[at], own)
    return int(step[KERNEL]), int(step[LO]), int(step[HI]), where


@cache
def watch_kernel() -> Callable[[np.ndarray, int], None]:
    """watch(bell, heard): looks at a bell that has rung `heard` times until it rings again, but not for long.

    A thread that watches keeps a core of its own: one that sleeps may be woken on the core of its caller, and share it.
    """

    def kernel(bell, heard):  # type: ignore[no-untyped-def]
        for _ in range(PATIENCE):
            if look(bell, 0) != heard:
                return

    return compiled("watch", types.void(INDICES, types.int64), kernel)


@cache
def worker_kernel(dtype: str) -> Callable[..., bool]:
    """work(worker, bell, claims, steps, tasks, stages, state, ...): runs tasks until none is left, then returns False;
    or returns True where the stage of its claim must wait. Worker 0 begins with a ring of the bell: by then it has let
    go of Python's lock, which a helper that hears it needs. It is done when all others are, too.

    The rest are what kernels get: the workspace, the images and filters of products, the planes of both operands and
    the result, bias and scale of the inverse; the addresses of the kernels; and where the worker's own
    region begins.
    """
    real = getattr(types, dtype)

    def kernel(worker, bell, claims, steps, tasks, stages, state, space, images, filters, first, second, result, bias, scale, calls, own):  # type: ignore[no-untyped-def]  # noqa: E501
        count, last = len(tasks) - 1, len(stages) - 1
        where = np.empty(steps.shape[1] - ARGUMENTS, np.int64)
        stage = 0
        if worker == 0:
            add_to(bell, 0, 1)
        while True:
            if claims[worker] < 0:
                claims[worker] = add_to(state, 0, 1)
            claim = claims[worker]
            if claim >= count and worker > 0:
                return False
            while stage < last and claim >= stages[stage + 1]:
                stage += 1
            if stage > 0:
                before, looks = stages[stage] - stages[stage - 1], 0
                while look(state, stage) < before:
                    looks += 1
                    if looks == PATIENCE:
                        return True
            if claim >= count:
                return False
            for i in range(tasks[claim], tasks[claim + 1]):
                call, lo, hi = calls[steps[i, KERNEL]], steps[i, LO], steps[i, HI]
                for j in range(len(where)):
                    where[j] = steps[i, ARGUMENTS + j]
                if steps[i, KERNEL] == MULTIPLY:
                    where[X_AT] = own_place(where[X_AT], own)
                    where[Y_AT] = own_place(where[Y_AT], own)
                    where[W_AT] = own_place(where[W_AT], own)
                    multiply_by(call, lo, hi, images, filters, space, where)
                    continue
                where[AT] = own_place(where[AT], own)
                if steps[i, KERNEL] == INVERSE:
                    invert_by(call, lo, hi, space, own, result, where, bias, scale)
                else:
                    transform_by(call, lo, hi, space, own, first if steps[i, KERNEL] == FIRST else second, where)
            claims[worker] = -1
            add_to(state, 1 + stage, 1)

    array, table = types.Array(real, 1, "C"), types.Array(types.int64, 2, "C")
    signature = types.boolean(
        types.intp, INDICES, INDICES, table, *[INDICES] * 3, *[array] * 3, *[INDICES] * 3, array, real,
        INDICES, types.intp,
    )  # fmt: skip
    return compiled(f"worker_{dtype}", signature, kernel)
