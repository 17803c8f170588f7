"""Calls of compiled kernels by their addresses: a kernel that calls another so is compiled without it.

    transform_by, multiply_by, invert_by    what a worker's loop calls (worker.py)
    place_by, read_by, write_by             what transforms call for places and rows of planes (planes.py)
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic


def call_by_address(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
    """Calls the compiled function whose address is the first argument with the others, by Numba's convention."""
    result, kinds, convention = signature.return_type, signature.args[1:], context.call_conv
    function = builder.inttoptr(args[0], ir.PointerType(convention.get_function_type(result, kinds)))
    return convention.call_function(builder, function, result, kinds, args[1:])[1]


@intrinsic
def transform_by(typing_context, address, lo, hi, space, scratch, planes, spectrum):  # type: ignore[no-untyped-def]
    index = types.intp
    return types.void(types.int64, index, index, space, index, planes, spectrum), call_by_address


@intrinsic
def multiply_by(typing_context, address, lo, hi, images, filters, space, job):  # type: ignore[no-untyped-def]
    index = types.intp
    return types.void(types.int64, index, index, images, filters, space, job), call_by_address


@intrinsic
def invert_by(typing_context, address, lo, hi, space, scratch, planes, spectrum, bias, scale):  # type: ignore[no-untyped-def]
    index = types.intp
    return types.void(types.int64, index, index, space, index, planes, spectrum, bias, space.dtype), call_by_address


@intrinsic
def place_by(typing_context, address, table, planes, block, channel, rows, columns):  # type: ignore[no-untyped-def]
    index = types.intp
    ends = types.UniTuple(index, 2)
    return ends(types.int64, table, planes, index, index, index, index), call_by_address


@intrinsic
def read_by(typing_context, address, planes, table, rows, row, count, space, at, pitch, columns):  # type: ignore[no-untyped-def]
    index = types.intp
    signature = types.void(types.int64, planes, table, table, index, index, space, index, index, index)
    return signature, call_by_address


@intrinsic
def write_by(typing_context, address, planes, table, space, at, width, pitch):  # type: ignore[no-untyped-def]
    index = types.intp
    return types.void(types.int64, planes, table, space, index, index, index), call_by_address
