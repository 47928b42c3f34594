"""How the course schedules half-precision products on a GPU's tensor cores.

dlight, TVM's library of rules, puts them there in tiles of 128 by 128 outputs. That is right for large matrices. The
convolutions of small networks, and of small batches, have fewer outputs than would make one such tile for every
multiprocessor. This rule has tiles of several sizes, and takes the largest of which there are enough.
"""

from dataclasses import dataclass
from math import gcd
from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir.dlight.analysis import get_root_block
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.dlight.gpu.matmul import (
    auto_inline_consumer_chain,
    auto_inline_producers,
    get_in_out_dtypes,
    get_index_map,
    get_reduction_blocks,
)

from inference_lib.backends.tvm.gpu import Tile, architecture, filling, product_of

FRAGMENT = 16
"""A tensor core multiplies matrices of 16 by 16, which a warp holds in its registers together."""

WARP = 32
LANES, GATHERED_LANES = 8, 4
"""Numbers that a thread fetches at once: 16 bytes, as many as one instruction moves, where they lie side by side in
memory. TVM's CUDA code for eight numbers from eight places does not compile."""

STORED_LANES = 4

FIRST_WITH_TENSOR_CORES = 70
"""The number of the architecture: Volta."""


@dataclass(frozen=True)
class FragmentTile(Tile):
    """A tile whose workers are warps, and their parts fragments."""

    depth: int
    """Fragments along the terms that are fetched to shared memory together."""
    side = FRAGMENT

    @property
    def terms(self) -> int:
        """Terms that are added up between two fetches."""
        return FRAGMENT * self.depth

    @property
    def warp_count(self) -> int:
        """Warps of the thread block."""
        return self.workers[0] * self.workers[1]


class TensorCores(ScheduleRule):  # type: ignore[misc]
    """Half-precision products on tensor cores, with tiles so small that there are enough for every multiprocessor."""

    tiles = (
        FragmentTile(workers=(4, 2), parts=(2, 2), depth=2),
        FragmentTile(workers=(2, 2), parts=(2, 2), depth=4),
        FragmentTile(workers=(2, 2), parts=(1, 1), depth=4),
    )
    """Largest first. On an H200, at batch 1, the products of each of the course's models took two to five percent
    longer with these than with the best of eight sizes for each product."""

    smallest = FRAGMENT
    """Rows, columns and terms, at least."""

    def apply(self, func: tvm.tirx.PrimFunc, target: tvm.target.Target, _: bool) -> s_tir.Schedule | None:
        """Return the schedule of ``func``, or None where this rule is not meant for it."""
        product = product_of(func)
        if product is None or product.dtype != "float16" or min(product[:3]) < self.smallest:
            return None
        if architecture(target) < FIRST_WITH_TENSOR_CORES:
            return None
        return on_tensor_cores(func, filling(self.tiles, product))


def on_tensor_cores(func: tvm.tirx.PrimFunc, tile: FragmentTile) -> s_tir.Schedule:
    """Return the schedule of a product: a thread block for each tile, and a warp for each part of it.

    Each thread block fetches the tile's rows of one matrix and columns of the other to shared memory, some terms at a
    time. From there each warp loads its fragments, and multiplies them on a tensor core.
    """
    from tvm.s_tir.tensor_intrin.cuda import get_wmma_intrin_group  # takes seconds, see import_tensor_programs

    program = s_tir.Schedule(func)
    (sums, *_) = get_reduction_blocks(program, program.get_child_blocks(get_root_block(program)))
    out_dtype = str(get_in_out_dtypes(program.get(sums))[1])
    lanes = [LANES if terms_lie_together(program.get(sums), operand) else GATHERED_LANES for operand in (0, 1)]
    as_matrices(program, sums)
    program.pad_einsum(sums, [1, tile.rows, tile.columns, tile.terms])
    fragments, warp, outer, inner = _split(program, sums, tile)

    tensor_core = get_wmma_intrin_group(
        load_scope="shared.dyn", store_scope="shared", in_dtype="float16", out_dtype=out_dtype, trans_b=True
    )
    loads = [_fetch(program, fragments, operand, lanes[operand], tile, outer, inner) for operand in (0, 1)]
    result = program.cache_write(fragments, 0, "shared")
    program.storage_align(result, 0, -2, FRAGMENT, STORED_LANES)
    store = program.cache_write(fragments, 0, "wmma.accumulator")
    for block in (store, result):
        program.reverse_compute_at(block, warp)
    start = program.decompose_reduction(fragments, outer)

    for block, name in ((loads[0], "load_a"), (loads[1], "load_b"), (store, "store")):
        program.tensorize(_fragment_loop(program, block, unroll=name != "store"), tensor_core[name])
    program.tensorize(program.get_loops(program.get_child_blocks(start)[0])[-2], tensor_core["init"])
    program.tensorize(program.get_loops(sums)[-3], tensor_core["compute"])

    auto_inline_consumer_chain(program, result)  # the bias and the activation, on the way out
    _, lane, vector = program.split(program.fuse(*program.get_loops(result)[-2:]), [None, WARP, STORED_LANES])
    program.bind(lane, "threadIdx.x")
    program.vectorize(vector)
    return program


def terms_lie_together(sums: s_tir.SBlock, operand: int) -> bool:
    """Whether the terms of a sum are neighbours in the memory of one operand: its last axis is one of the terms."""
    last = sums.reads[operand].region[-1].min
    return any(axis.var.same_as(last) and axis.iter_type == axis.CommReduce for axis in sums.iter_vars)


def as_matrices(program: s_tir.Schedule, sums: Any) -> None:
    """Turn the loops of a convolution or product into four: batch, rows, columns, terms."""
    reads = [program.reindex(sums, ("read", operand)) for operand in (0, 1)]
    write = program.reindex(sums, ("write", 0))
    loops, *maps = get_index_map(program.get(sums))
    for block, side, index_map in zip((*reads, write), ("write", "write", "read"), maps, strict=True):
        program.transform_layout(block, (side, 0), index_map)
    program.transform_block_layout(sums, loops)


def _split(program: s_tir.Schedule, sums: Any, tile: FragmentTile) -> tuple[Any, Any, Any, Any]:
    """Split the loops into tiles, warps and fragments; return the fragments' block and three loops.

    These are the one over warps, and over the terms the outer one (a fetch) and the inner one (a fragment).
    """
    batch, rows, columns, terms = program.get_loops(sums)
    tile_i, warp_i, part_i, i = program.split(rows, [None, tile.workers[0], tile.parts[0], FRAGMENT])
    tile_j, warp_j, part_j, j = program.split(columns, [None, tile.workers[1], tile.parts[1], FRAGMENT])
    outer, inner, k = program.split(terms, [None, tile.depth, FRAGMENT])
    program.reorder(tile_i, tile_j, warp_i, warp_j, outer, inner, part_i, part_j, i, j, k)
    fragments = program.blockize(i)
    warp = program.fuse(warp_i, warp_j)
    for loop, axis in ((batch, "blockIdx.z"), (tile_i, "blockIdx.x"), (tile_j, "blockIdx.y"), (warp, "threadIdx.y")):
        program.bind(loop, axis)
    return fragments, warp, outer, inner


def _fetch(
    program: s_tir.Schedule, fragments: Any, operand: int, lanes: int, tile: FragmentTile, outer: Any, inner: Any
) -> Any:
    """Copy one operand to shared memory, all threads together, and from there to fragments; return their block."""
    shared = program.cache_read(fragments, operand, "shared.dyn")
    program.compute_at(shared, outer)
    copied = program.fuse(*program.get_loops(shared)[-2:])
    numbers = (tile.rows, tile.columns)[operand] * tile.terms
    each = gcd(lanes, numbers // (tile.warp_count * WARP))
    _, warp, lane, vector = program.split(copied, [None, tile.warp_count, WARP, each])
    program.bind(warp, "threadIdx.y")
    program.bind(lane, "threadIdx.x")
    program.vectorize(vector)
    program.storage_align(shared, 0, -2, FRAGMENT, LANES)  # rows start in different banks
    auto_inline_producers(program, shared)
    loaded = program.cache_read(fragments, operand, f"wmma.matrix_{'ab'[operand]}")
    program.compute_at(loaded, inner)
    return loaded


def _fragment_loop(program: s_tir.Schedule, block: Any, *, unroll: bool) -> Any:
    """Split the loops of a copy into fragments; return the loop from which one instruction does the rest."""
    rows, columns = program.get_loops(block)[-2:]
    (part_i, i), (part_j, j) = (program.split(loop, [None, FRAGMENT]) for loop in (rows, columns))
    program.reorder(part_i, part_j, i, j)
    if unroll:
        program.unroll(part_i)
        program.unroll(part_j)
    return i
