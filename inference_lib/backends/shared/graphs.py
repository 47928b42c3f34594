"""CUDA graphs: a runner's kernels recorded once and replayed with one launch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def __init__(self, runner: BufferedRunner) -> None:
        Runner.__init__(self, runner.workload)
        self.stream, self.buffers = runner.stream, runner.buffers
        self._products = float32_products(self.workload.precision)
        self._captured = runner  # its weights and workspaces are what the graph's kernels use
        for _ in range(3):  # libraries choose their kernels at first use, and must not do so while they are captured
            runner.compute()
        self.synchronize()
        pool, small = torch.cuda.graph_pool_handle(), self.workload.batch_size <= IMAGES_PER_COPY
        self._graph = captured(runner.compute, self.stream, pool)
        self._whole = captured(self._queue_all, self.stream, pool) if small else None

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


def captured(queue: Callable[[], object], stream: torch.cuda.Stream, pool: Any = None) -> torch.cuda.CUDAGraph:
    """Return what ``queue`` puts on ``stream`` as a CUDA graph, without running it."""
    graph = torch.cuda.CUDAGraph()
    # "relaxed": a library may ask the driver something while it queues its kernels
    with torch.cuda.graph(graph, pool, stream, capture_error_mode="relaxed"):
        queue()
    return graph


@contextmanager
def in_turn(stream: torch.cuda.Stream) -> Iterator[None]:
    """Let what the block captures on ``stream`` start when the kernel before it has ended, and not earlier.

    Since Hopper, a kernel may be launched while the one before it still runs: it prepares itself, and waits in its code
    before it reads what the other writes. This is for kernels that do not wait for all that they read. Nothing changes
    where ``stream`` is not captured. See "Programmatic Dependent Launch" in NVIDIA's CUDA Programming Guide.
    """
    _, before = _latest(stream)
    yield
    graph, node = _latest(stream)
    while node is not None and node != before:
        node = _wait(graph, node)


def _latest(stream: torch.cuda.Stream) -> tuple[Any, Any]:
    """Return the graph into which ``stream`` is captured, and its latest node; None for what there is not."""
    from cuda.bindings import runtime

    state, _, graph, nodes, *_ = checked(runtime.cudaStreamGetCaptureInfo(stream.cuda_stream))
    if state != runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusActive:
        return None, None
    return graph, nodes[0] if nodes else None


def _wait(graph: Any, node: Any) -> Any:
    """Let ``node`` start when all that it depends on has ended; return the first of these, None where there is none."""
    from cuda.bindings import runtime

    *_, count = checked(runtime.cudaGraphNodeGetDependencies(node))
    if not count:
        return None
    earlier, kinds, _ = checked(runtime.cudaGraphNodeGetDependencies(node, count))
    for one, kind in zip(earlier, kinds, strict=True):
        if kind.type == runtime.cudaGraphDependencyType.cudaGraphDependencyTypeProgrammatic:
            checked(runtime.cudaGraphRemoveDependencies(graph, [one], [node], [kind], 1))
            checked(runtime.cudaGraphAddDependencies(graph, [one], [node], None, 1))
    return earlier[0]
