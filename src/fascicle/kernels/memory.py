"""Machine operations that Numba has no words for: unaligned little-endian loads and stores, block copies, bit counts.

Offsets are in bytes from the start of the array, whatever its dtype. Nothing is checked: callers validate first. A
little-endian processor is assumed (all that Numba supports).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, extending, njit  # type: ignore[attr-defined]
from numba.core import cgutils, types

_BYTE = ir.IntType(8)
intrinsic: Any = extending.intrinsic


def _address(context: Any, builder: Any, array_type: Any, array: Any, offset_type: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    start = builder.bitcast(data, _BYTE.as_pointer())
    return builder.gep(start, [context.cast(builder, offset, offset_type, types.intp)])


def _loader(result: Any) -> Any:
    def declare(typingctx: Any, array: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = _address(context, builder, signature.args[0], args[0], signature.args[1], args[1])
            pointer = builder.bitcast(address, ir.IntType(result.bitwidth).as_pointer())
            return builder.load(pointer, align=1)

        return result(array, offset), codegen

    return intrinsic(declare)


def _storer(kind: Any) -> Any:
    def declare(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = _address(context, builder, signature.args[0], args[0], signature.args[1], args[1])
            pointer = builder.bitcast(address, ir.IntType(kind.bitwidth).as_pointer())
            builder.store(context.cast(builder, args[2], signature.args[2], kind), pointer, align=1)
            return context.get_dummy_value()

        return types.void(array, offset, value), codegen

    return intrinsic(declare)


load_u16 = _loader(types.uint16)
load_u32 = _loader(types.uint32)
load_u64 = _loader(types.uint64)
store_u16 = _storer(types.uint16)
store_u32 = _storer(types.uint32)
store_u64 = _storer(types.uint64)


@intrinsic
def copy_bytes(typingctx: Any, target: Any, at: Any, source: Any, start: Any, size: Any) -> Any:
    """Copy `size` bytes from byte `start` of `source` to byte `at` of `target`; they must not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        to = _address(context, builder, kinds[0], args[0], kinds[1], args[1])
        origin = _address(context, builder, kinds[2], args[2], kinds[3], args[3])
        cgutils.raw_memcpy(builder, to, origin, context.cast(builder, args[4], kinds[4], types.intp), 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, at, source, start, size), codegen


@intrinsic
def count_ones(typingctx: Any, value: Any) -> Any:
    """How many bits of a u64 are set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


@intrinsic
def lowest_one(typingctx: Any, value: Any) -> Any:
    """The position of the lowest set bit of a u64; 64 for zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), codegen


@intrinsic
def leading_zeros(typingctx: Any, value: Any) -> Any:
    """How many zeros a u64 has above its highest set bit; 64 for zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), codegen


@intrinsic
def swap_bytes(typingctx: Any, value: Any) -> Any:
    """The bytes of a u64 in reverse order."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bswap(args[0])

    return types.uint64(types.uint64), codegen


@intrinsic
def reverse_bits(typingctx: Any, value: Any) -> Any:
    """The bits of a u64 in reverse order."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitreverse(args[0])

    return types.uint64(types.uint64), codegen


@intrinsic
def store_at(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a u64 to a machine address (i64)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        builder.store(args[1], builder.inttoptr(args[0], word.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), codegen


def _address_loader(result: Any) -> Any:
    def declare(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(result.bitwidth).as_pointer())
            return builder.load(pointer, align=1)

        return result(types.int64), codegen

    return intrinsic(declare)


u8_at = _address_loader(types.uint8)
"""The value at a machine address (i64)."""
u16_at = _address_loader(types.uint16)
u32_at = _address_loader(types.uint32)
u64_at = _address_loader(types.uint64)


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@njit(cache=True, nogil=True, inline="always")
def bytes_at(address, size):  # type: ignore[no-untyped-def]
    """The `size` bytes at a machine address (i64) as an array u8."""
    return carray(_pointer(address), size, np.uint8)
