"""How the course schedules loops on a CPU: TVM has rules for GPUs that do this, and hardly any for CPUs."""

from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target.codegen import llvm_get_vector_width

Loop = Any
Block = Any


class VectorTiles(ScheduleRule):  # type: ignore[misc]
    """Compute small tiles of the output in vector registers, many tiles at once on all cores.

    For a program with at most one reduction (a convolution, a product, a pooling): what comes before it is computed
    first, what comes after it is computed on each tile while it is still in registers.
    """

    columns = 7
    """Pixels of a tile, at most: 7 divides the height and width of most feature maps."""

    vectors = 2
    """Vector registers of a pixel, at most."""

    def apply(self, func: tvm.tirx.PrimFunc, target: tvm.target.Target, _: bool) -> s_tir.Schedule | None:
        """Return the schedule of ``func``, or None where this rule does not know how."""
        program = s_tir.Schedule(func)
        blocks = normalize_prim_func(program) if target.kind.name == "llvm" else None
        reductions = [i for i, block in enumerate(blocks or []) if not block.is_injective()]
        if not blocks or len(reductions) > 1:
            return None
        lanes = self.vectors * llvm_get_vector_width(target) // 32
        at = reductions[0] if reductions else 0
        for block in blocks[:at]:
            parallel_vectors(program, block.block_rv, lanes)
        for block in blocks[at + 1 if reductions else 0 : -1]:
            program.compute_inline(block.block_rv)
        if not reductions:
            return parallel_vectors(program, blocks[-1].block_rv, lanes)
        after = blocks[-1].block_rv if at < len(blocks) - 1 else None
        spatial = len(blocks[at].dom_kind().rstrip("R"))
        return self.tile(program, blocks[at].block_rv, after, spatial, lanes)

    def tile(
        self, program: s_tir.Schedule, reduction: Block, after: Block | None, spatial: int, lanes: int
    ) -> s_tir.Schedule:
        """Tile the last two of the ``spatial`` loops around ``reduction``, and compute ``after`` on each tile."""
        loops = program.get_loops(reduction)
        outer, sums = loops[:spatial], loops[spatial:]
        inner: list[Loop] = []
        for most in (lanes, self.columns)[: len(outer)]:
            position = len(outer) - 1 - len(inner)
            outer[position], tile = split(program, outer[position], most)
            inner.insert(0, tile)
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
            self.unroll_and_vectorize(program, program.get_loops(block)[-len(inner) :])
        return program

    @staticmethod
    def unroll_and_vectorize(program: s_tir.Schedule, tile: list[Loop]) -> None:
        """Turn the loops of a tile into straight code on vectors: then LLVM keeps the sums in registers."""
        *columns, vector = tile
        program.vectorize(vector)
        for column in columns:
            program.unroll(column)


def parallel_vectors(program: s_tir.Schedule, block: Block, lanes: int) -> s_tir.Schedule:
    """Share the loops around ``block`` among the cores, the innermost in vectors."""
    *outer, last = program.get_loops(block)
    rest, vector = split(program, last, lanes)
    program.vectorize(vector)
    program.parallel(program.fuse(*outer, rest))
    return program


def split(program: s_tir.Schedule, loop: Loop, most: int) -> tuple[Loop, Loop]:
    """Split ``loop`` in two, the inner one as long as it can be up to ``most`` without a remainder."""
    extent = int(program.get(loop).extent)
    size = max(size for size in range(1, most + 1) if extent % size == 0)
    outer, inner = program.split(loop, [None, size])
    return outer, inner
