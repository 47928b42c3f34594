"""CUDA graphs: a runner's kernels recorded once and replayed with one launch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from inference_lib.backends.shared.buffers import IMAGES_PER_COPY, BufferedRunner
from inference_lib.backends.shared.cuda import checked, float32_products
from inference_lib.seam import Runner


class GraphedRunner(BufferedRunner):
    """Another runner's kernels, captured in a CUDA graph: one launch instead of one an operation.

    The copies of a small batch are captured too, in a second graph: an inference is then a copy into pinned memory,
    one launch, and a wait. A large batch is sent in pieces instead, each while the next is staged.

    The two graphs share one pool of memory for what they compute on the way. They may, in any order: they never run
    side by side (one stream), and neither reads what the other left (both start from the input and end in buffers
    outside of the pool).
    """

    def __init__(self, runner: BufferedRunner, in_turn: bool = False) -> None:
        """Capture ``runner``; ``in_turn`` lets no kernel start before the one before it has ended."""
        Runner.__init__(self, runner.workload)
        self.stream, self.buffers = runner.stream, runner.buffers
        self._products = float32_products(self.workload.precision)
        self._captured = runner  # its weights and workspaces are what the graph's kernels use
        for _ in range(3):  # libraries choose their kernels at first use, and must not do so while they are captured
            runner.compute()
        self.synchronize()
        capture = partial(captured, stream=self.stream, pool=torch.cuda.graph_pool_handle(), in_turn=in_turn)
        self._graph = capture(runner.compute)
        self._whole = capture(self._queue_all) if self.workload.batch_size <= IMAGES_PER_COPY else None

    def _queue_all(self) -> None:
        self.buffers.queue_upload()
        self._captured.compute()
        self.buffers.queue_download()

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        if self._whole is None:
            return super()._infer(batch)
        self.buffers.stage(batch)
        self._replay(self._whole)
        return self.buffers.fetch()

    def compute(self) -> None:
        """Queue one replay of the model's kernels."""
        self._replay(self._graph)

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.stream(self.stream):
            graph.replay()


def captured(
    queue: Callable[[], object], stream: torch.cuda.Stream, pool: Any = None, *, in_turn: bool = False
) -> torch.cuda.CUDAGraph:
    """Return what ``queue`` puts on ``stream`` as a CUDA graph, without running it.

    Since Hopper, a kernel may be launched while the one before it still runs: it prepares itself, and waits in its code
    before it reads what the other writes. ``in_turn`` is for kernels that do not wait well enough: each starts when
    the one before it has ended. See "Programmatic Dependent Launch" in NVIDIA's CUDA Programming Guide.
    """
    graph = torch.cuda.CUDAGraph(keep_graph=in_turn)
    # "relaxed": a library may ask the driver something while it queues its kernels
    with torch.cuda.graph(graph, pool, stream, capture_error_mode="relaxed"):
        queue()
    if in_turn:
        _order(graph.raw_cuda_graph())
        graph.instantiate()
    return graph


def _order(graph: int) -> None:
    """Replace the dependencies of ``graph`` that let a kernel start early by those that do not."""
    from cuda.bindings import runtime

    *_, count = checked(runtime.cudaGraphGetEdges(graph))
    sources, targets, kinds, _ = checked(runtime.cudaGraphGetEdges(graph, count))
    early = [
        edge
        for edge in zip(sources, targets, kinds, strict=True)
        if edge[2].type == runtime.cudaGraphDependencyType.cudaGraphDependencyTypeProgrammatic
    ]
    if early:
        before, after, kinds = (list(part) for part in zip(*early, strict=True))
        checked(runtime.cudaGraphRemoveDependencies(graph, before, after, kinds, len(early)))
        checked(runtime.cudaGraphAddDependencies(graph, before, after, None, len(early)))
