"""How the course schedules loops on a GPU where TVM's own rules, dlight, leave most of it idle."""

import re
from math import ceil, prod
from typing import Any, NamedTuple

import tvm
from tvm import s_tir
from tvm.s_tir.dlight.analysis import get_root_block, normalize_prim_func
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.dlight.gpu.matmul import (
    IterKind,
    Matmul,
    MatmulTensorization,
    detect_iter_traits,
    get_in_out_dtypes,
    get_reduction_blocks,
)

MULTIPROCESSORS = 132
"""Those of an H100. With fewer thread blocks, some have no work."""


FIRST_WITH_TENSOR_CORES = 70
"""The number of the architecture: Volta."""


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


class TensorCores(ScheduleRule):  # type: ignore[misc]
    """Half-precision products on tensor cores, smaller ones too than those that dlight puts there.

    dlight wants more than 64 rows, columns and terms. Smaller products fill a part of a tile of 128 by 128.
    """

    smallest = 32
    """Rows, columns and terms, at least."""

    def apply(self, func: tvm.tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> s_tir.Schedule | None:
        """Return the schedule of ``func``, or None where this rule is not meant for it."""
        product = product_of(func)
        if product is None or product.dtype != "float16" or min(product[:3]) < self.smallest:
            return None
        if architecture(target) < FIRST_WITH_TENSOR_CORES:
            return None
        return MatmulTensorization().apply(func, target, tunable)


def tile(threads: tuple[int, int], outputs: tuple[int, int]) -> Matmul.Config:
    """Return a tile of ``threads``, each of which computes ``outputs``: (along the rows, along the columns)."""
    return Matmul.Config(
        block_size_x=threads[0],
        block_size_y=threads[1],
        micro_size_x=outputs[0],
        micro_size_y=outputs[1],
        micro_size_k=16,
        vector_size=2,
        storage_align=True,
    )


class FilledMatmul(ScheduleRule):  # type: ignore[misc]
    """dlight's rule for products, with tiles so small that there is one for every multiprocessor."""

    tiles = (
        tile(threads=(8, 16), outputs=(4, 4)),  # dlight's own
        tile(threads=(8, 8), outputs=(2, 4)),
        tile(threads=(8, 8), outputs=(2, 2)),
    )
    """Largest first."""

    def apply(self, func: tvm.tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> s_tir.Schedule | None:
        """Return the schedule of ``func``, or None where this rule is not meant for it."""
        product = product_of(func)
        return _Tiled(self.tile_for(product)).apply(func, target, tunable) if product else None

    def tile_for(self, product: Product) -> Matmul.Config:
        """Return the largest tile of which there are enough, else the smallest."""
        enough = (tile for tile in self.tiles if tile_count(product, tile) >= MULTIPROCESSORS)
        return next(enough, self.tiles[-1])


def tile_count(product: Product, tile: Matmul.Config) -> int:
    """Return the number of tiles that cover the result."""
    rows, columns = tile.block_size_x * tile.micro_size_x, tile.block_size_y * tile.micro_size_y
    return ceil(product.rows / rows) * ceil(product.columns / columns)


class _Tiled(Matmul):  # type: ignore[misc]
    """dlight's rule with the configuration that it is given."""

    def __init__(self, config: Matmul.Config) -> None:
        self.config = config

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
