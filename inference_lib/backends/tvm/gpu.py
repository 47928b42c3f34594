"""How the course schedules loops on a GPU where TVM's own rules, dlight, leave most of it idle."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, ClassVar, NamedTuple, TypeVar

import tvm
from tvm import s_tir
from tvm.s_tir.dlight.analysis import get_root_block, normalize_prim_func
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.dlight.gpu.matmul import IterKind, Matmul, detect_iter_traits, get_in_out_dtypes, get_reduction_blocks

MULTIPROCESSORS = 132
"""Those of an H100 and an H200. With fewer thread blocks, some have no work."""

ENOUGH = 4
"""Tiles for each multiprocessor: while one waits for memory, it works on another, and the last ones end together."""


class Product(NamedTuple):
    """A convolution or product as one of two matrices: rows x terms, terms x columns."""

    rows: int
    columns: int
    terms: int
    dtype: str
    """That of the first matrix."""


class ShortSums(ScheduleRule):  # type: ignore[misc]
    """One thread for each output, where an output is the sum of a few products: a depthwise convolution.

    dlight shares each sum among the 256 threads of a block, which is meant for the thousands of terms of a softmax.
    """

    terms = 32
    """The longest sum that one thread adds up."""

    threads = 256

    def apply(self, func: tvm.tirx.PrimFunc, _: tvm.target.Target, __: bool) -> s_tir.Schedule | None:
        """Return the schedule of ``func``, or None where this rule is not meant for it."""
        program = s_tir.Schedule(func)
        blocks = normalize_prim_func(program) or []
        reductions = [block for block in blocks if not block.is_injective()]
        if len(reductions) != 1 or self.length(reductions[0]) > self.terms or product_of(func):
            return None
        sums, last = reductions[0].block_rv, blocks[-1].block_rv
        for block in blocks[:-1]:
            if block is not reductions[0]:
                program.compute_inline(block.block_rv)
        if blocks[-1] is reductions[0]:
            last = program.cache_write(sums, 0, "local")
        else:
            program.set_scope(sums, 0, "local")
        spatial = len(reductions[0].dom_kind().rstrip("R"))
        outputs, terms = program.get_loops(sums)[:spatial], program.get_loops(sums)[spatial:]
        group, thread = program.split(program.fuse(*outputs), [None, self.threads])
        program.bind(group, "blockIdx.x")
        program.bind(thread, "threadIdx.x")
        program.reverse_compute_at(last, thread)
        for loop in terms:
            program.unroll(loop)
        program.decompose_reduction(sums, terms[0])
        return program

    @staticmethod
    def length(block: Any) -> int:
        """Return the number of terms of each sum in ``block``."""
        return prod(int(axis.dom) for axis in block.iters if axis.kind == "R")


@dataclass(frozen=True)
class Tile:
    """The part of a product's result that one thread block computes: workers side by side, with parts side by side."""

    workers: tuple[int, int]
    """Threads, or warps: along the rows, along the columns."""
    parts: tuple[int, int]
    """Of one worker, likewise: outputs, or fragments."""
    side: ClassVar[int] = 1
    """Rows and columns of a part."""

    @property
    def rows(self) -> int:
        """Rows of the result."""
        return self.side * self.workers[0] * self.parts[0]

    @property
    def columns(self) -> int:
        """Columns of the result."""
        return self.side * self.workers[1] * self.parts[1]


SomeTile = TypeVar("SomeTile", bound=Tile)


def filling(tiles: Sequence[SomeTile], product: Product) -> SomeTile:
    """Return the first of ``tiles`` of which there are enough for every multiprocessor, else the last.

    ``tiles`` are sorted, the largest first.
    """
    enough = (tile for tile in tiles if tile_count(product, tile) >= ENOUGH * MULTIPROCESSORS)
    return next(enough, tiles[-1])


def tile_count(product: Product, tile: Tile) -> int:
    """Return the number of tiles that cover the result."""
    return ceil(product.rows / tile.rows) * ceil(product.columns / tile.columns)


class FilledMatmul(ScheduleRule):  # type: ignore[misc]
    """dlight's rule for products, with tiles so small that there are enough for every multiprocessor."""

    tiles = (
        Tile(workers=(8, 16), parts=(4, 4)),  # dlight's own
        Tile(workers=(8, 8), parts=(2, 4)),
        Tile(workers=(8, 8), parts=(2, 2)),
    )
    """Largest first."""

    def apply(self, func: tvm.tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> s_tir.Schedule | None:
        """Return the schedule of ``func``, or None where this rule is not meant for it."""
        product = product_of(func)
        return _Tiled(filling(self.tiles, product)).apply(func, target, tunable) if product else None


class _Tiled(Matmul):  # type: ignore[misc]
    """dlight's rule with the tile that it is given."""

    def __init__(self, tile: Tile) -> None:
        self.config = Matmul.Config(
            block_size_x=tile.workers[0],
            block_size_y=tile.workers[1],
            micro_size_x=tile.parts[0],
            micro_size_y=tile.parts[1],
            micro_size_k=16,
            vector_size=2,
            storage_align=True,
        )

    def get_configs(self, _: tvm.target.Target) -> Matmul.Config:
        return self.config


def architecture(target: tvm.target.Target) -> int:
    """Return the number of a GPU's architecture: 90 for ``sm_90`` and for ``sm_90a``."""
    return int(re.sub(r"\D", "", str(target.attrs["arch"])))


def product_of(func: tvm.tirx.PrimFunc) -> Product | None:
    """Return the matrix product that ``func`` computes, None if it is something else."""
    program = s_tir.Schedule(func)
    blocks = get_reduction_blocks(program, program.get_child_blocks(get_root_block(program)))
    traits = detect_iter_traits(program.get(blocks[0])) if blocks else None
    if traits is None:
        return None
    sizes = dict.fromkeys(IterKind, 1)
    for axis in traits[-1]:
        sizes[axis.kind] *= int(axis.extent)
    rows, columns, terms = (sizes[kind] for kind in (IterKind.kIter_I, IterKind.kIter_J, IterKind.kIter_K))
    return Product(rows, columns, terms, str(get_in_out_dtypes(program.get(blocks[0]))[0]))
