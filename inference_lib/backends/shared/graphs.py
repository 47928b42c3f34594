"""CUDA graphs: a runner's kernels recorded once and replayed with one launch."""

from collections.abc import Callable

import numpy as np
import torch

from inference_lib.backends.shared.buffers import IMAGES_PER_COPY, BufferedRunner
from inference_lib.backends.shared.cuda import float32_products
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
        self._pool = torch.cuda.graph_pool_handle()
        self._graph = self._capture(runner.compute)
        self._whole = self._capture(self._queue_all) if self.workload.batch_size <= IMAGES_PER_COPY else None

    def _queue_all(self) -> None:
        self.buffers.queue_upload()
        self._captured.compute()
        self.buffers.queue_download()

    def _capture(self, queue: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record what ``queue`` puts on the stream, without running it."""
        graph = torch.cuda.CUDAGraph()
        # "relaxed": a library may ask the driver something while it queues its kernels
        with torch.cuda.graph(graph, self._pool, self.stream, capture_error_mode="relaxed"):
            queue()
        return graph

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
