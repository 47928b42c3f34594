"""How the course schedules loops on a CPU: TVM has rules for GPUs that do this, and hardly any for CPUs."""

import platform
from math import gcd
from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target.codegen import llvm_get_vector_width

Loop = Any
Block = Any


def divisor(program: s_tir.Schedule, loop: Loop, most: int) -> int:
    """Return the largest number up to ``most`` that divides the length of ``loop``."""
    extent = int(program.get(loop).extent)
    return max(size for size in range(1, most + 1) if extent % size == 0)


def power_of_two(program: s_tir.Schedule, loop: Loop, most: int) -> int:
    """Return the largest power of two up to ``most`` that divides the length of ``loop``.

    LLVM makes a poor job of vectors of another length.
    """
    return gcd(int(program.get(loop).extent), 2 ** (most.bit_length() - 1))


class VectorTiles(ScheduleRule):  # type: ignore[misc]
    """Compute small tiles of the output in vector registers, many tiles at once on all cores.

    For a program with at most one reduction (a convolution, a product, a pooling): what comes before it is computed
    first, what comes after it is computed on each tile while it is still in registers.
    """

    vectors = 2
    """Vector registers of a pixel, at most. As many pixels make a tile as leave two registers for the factors."""

    length = staticmethod(power_of_two)
    """How many numbers a vector gets, of a loop and at most so many."""

    def apply(self, func: tvm.tirx.PrimFunc, target: tvm.target.Target, _: bool) -> s_tir.Schedule | None:
        """Return the schedule of ``func``, or None where this rule does not know how."""
        program = s_tir.Schedule(func)
        blocks = normalize_prim_func(program) if target.kind.name == "llvm" else None
        reductions = [i for i, block in enumerate(blocks or []) if not block.is_injective()]
        if not blocks or len(reductions) > 1:
            return None
        width = llvm_get_vector_width(target)
        lanes, columns = self.vectors * width // 32, (registers(width) - 2) // self.vectors
        at = reductions[0] if reductions else 0
        for block in blocks[:at]:
            parallel_vectors(program, block.block_rv, lanes)
        for block in blocks[at + 1 if reductions else 0 : -1]:
            program.compute_inline(block.block_rv)
        if not reductions:
            return parallel_vectors(program, blocks[-1].block_rv, lanes)
        after = blocks[-1].block_rv if at < len(blocks) - 1 else None
        spatial = len(blocks[at].dom_kind().rstrip("R"))
        return self.tile(program, blocks[at].block_rv, after, spatial, (columns, lanes))

    def tile(
        self, program: s_tir.Schedule, reduction: Block, after: Block | None, spatial: int, most: tuple[int, int]
    ) -> s_tir.Schedule:
        """Tile the last two of the ``spatial`` loops around ``reduction``, and compute ``after`` on each tile.

        ``most`` is the size of a tile, at most: pixels, and numbers of a vector.
        """
        loops = program.get_loops(reduction)
        outer, sums = loops[:spatial], loops[spatial:]
        columns, lanes = most
        outer[-1], vector = split(program, outer[-1], self.length(program, outer[-1], lanes))
        inner = [vector]
        if len(outer) > 1:
            outer[-2], pixels = split(program, outer[-2], divisor(program, outer[-2], columns))
            inner.insert(0, pixels)
        program.reorder(*outer, *sums, *inner)
        tiles = program.fuse(*outer)
        program.parallel(tiles)
        self.unroll_and_vectorize(program, inner)
        if after is None:
            after = program.cache_write(reduction, 0, "local")
        else:
            program.set_scope(reduction, 0, "local")
        program.reverse_compute_at(after, tiles)
        zeros = program.decompose_reduction(reduction, program.get_loops(reduction)[1])
        for block in (after, zeros):
            # All loops but that over the tiles: TVM leaves out one of length 1, of an odd number of channels.
            self.unroll_and_vectorize(program, program.get_loops(block)[1:])
        return program

    @staticmethod
    def unroll_and_vectorize(program: s_tir.Schedule, tile: list[Loop]) -> None:
        """Turn the loops of a tile into straight code on vectors: then LLVM keeps the sums in registers."""
        for column in tile[:-1]:
            program.unroll(column)
        for vector in tile[-1:]:
            program.vectorize(vector)


def parallel_vectors(program: s_tir.Schedule, block: Block, lanes: int) -> s_tir.Schedule:
    """Share the loops around ``block`` among the cores, the innermost in vectors."""
    *outer, last = program.get_loops(block)
    rest, vector = split(program, last, power_of_two(program, last, lanes))
    program.vectorize(vector)
    program.parallel(program.fuse(*outer, rest))
    return program


def split(program: s_tir.Schedule, loop: Loop, size: int) -> tuple[Loop, Loop]:
    """Split ``loop`` in two, the inner one of ``size``."""
    outer, inner = program.split(loop, [None, size])
    return outer, inner


def registers(width: int) -> int:
    """Return the number of vector registers of ``width`` bits: 16 on x86 before AVX-512, else 32."""
    return 16 if platform.machine() in ("x86_64", "AMD64") and width < 512 else 32
