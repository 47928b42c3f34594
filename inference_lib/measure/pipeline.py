"""Overlapped throughput: while one batch is computed, the next is on its way in and the last on its way out.

A GPU has copy engines beside its processors, one a direction, so the three can run at once if each has a stream and
memory of its own: https://docs.nvidia.com/cuda/cuda-c-best-practices-guide/#asynchronous-and-overlapping-transfers-with-computation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.measure.throughput import Throughput, fill_budget

SLOTS = 2
"""Batches in flight: one may be copied while another is computed."""


@dataclass
class Slot:
    """Memory for one batch in flight, and the events that say how far it is."""

    images: torch.Tensor
    logits: torch.Tensor
    result: torch.Tensor
    uploaded: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    taken: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    computed: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    downloaded: torch.cuda.Event = field(default_factory=torch.cuda.Event)


class Pipeline:
    """A runner with fixed buffers, fed and emptied on streams of their own.

    The runner reads and writes one pair of addresses, so each batch is copied once more on the device, which is
    tens of times faster than the way across the bus.
    """

    def __init__(self, runner: BufferedRunner) -> None:
        self.runner = runner
        self._inward, self._outward = torch.cuda.Stream(), torch.cuda.Stream()
        buffers = runner.buffers
        self._slots = [
            Slot(
                torch.empty_like(buffers.input),
                torch.empty_like(buffers.output),
                torch.empty(buffers.output.shape, dtype=buffers.output.dtype, pin_memory=True),
            )
            for _ in range(SLOTS)
        ]
        self._submitted = 0
        torch.cuda.current_stream().synchronize()

    def submit(self, batch: torch.Tensor) -> torch.Tensor:
        """Queue one batch (pinned, N x 3 x 224 x 224); return the pinned memory that will hold its logits (N x 10).

        Nothing is waited for. The logits are there after ``synchronize``, until ``SLOTS`` more batches are submitted.
        """
        slot = self._slots[self._submitted % SLOTS]
        self._submitted += 1
        buffers, stream = self.runner.buffers, self.runner.stream
        with torch.cuda.stream(self._inward):
            self._inward.wait_event(slot.taken)  # by the computation of the batch that was here before
            slot.images.copy_(batch, non_blocking=True)
            slot.uploaded.record()
        with torch.cuda.stream(stream):
            stream.wait_event(slot.uploaded)
            buffers.input.copy_(slot.images)
            slot.taken.record()
            self.runner.compute()
            stream.wait_event(slot.downloaded)
            slot.logits.copy_(buffers.output)
            slot.computed.record()
        with torch.cuda.stream(self._outward):
            self._outward.wait_event(slot.computed)
            slot.result.copy_(slot.logits, non_blocking=True)
            slot.downloaded.record()
        return slot.result

    def synchronize(self) -> None:
        """Wait for every batch that was submitted."""
        self._outward.synchronize()


FILL = 3


def time_overlapped(runner: BufferedRunner, batches: Sequence[np.ndarray], budget_s: float) -> Throughput:
    """Return images per second from pinned host memory to pinned host memory, copies and computation overlapped.

    A queue of ``FILL`` budgets is timed: the first upload and the last download have nothing to hide behind, and must
    not count for much.
    """
    pinned = [torch.from_numpy(batch).pin_memory() for batch in batches]
    pipeline = Pipeline(runner)
    for batch in pinned * SLOTS:
        pipeline.submit(batch)
    pipeline.synchronize()
    return fill_budget(
        lambda number: pipeline.submit(pinned[number % len(pinned)]),
        pipeline.synchronize,
        len(batches[0]),
        FILL * budget_s,
    )
