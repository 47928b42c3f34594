"""A request, and the reasons why one may get no answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_lib.support.errors import CourseError


class OverloadedError(CourseError):
    """The queue is full; nothing was kept of the request."""


class TimedOutError(CourseError):
    """The request waited longer than it may, and was not computed."""


class FailedError(CourseError):
    """The batch of this request failed, or its worker died."""


class ClosedError(CourseError):
    """The queue has ended, or has nobody left who works."""


@dataclass(slots=True, eq=False)
class Request:
    """Pictures that came together, and what became of them. Times are those of ``time.perf_counter``."""

    pictures: np.ndarray
    """uint8, N x 28 x 28."""
    done: Callable[[list["Request"]], object]
    """Called in a worker's thread with answered requests, at once for neighbours in a batch that name the same."""
    arrived: float
    tags: Sequence[Any] = ()
    """What whoever asked knows the pictures by."""
    taken: float = 0.0
    finished: float = 0.0
    batch: int = 0
    """Pictures that were computed together; 0 where this one was not."""
    logits: np.ndarray | None = None
    """N x 10."""
    error: CourseError | None = None
    """Why there are no logits."""

    def cut(self, count: int) -> "Request":
        """Return a request of the first ``count`` pictures, and keep the others."""
        first = Request(self.pictures[:count], self.done, self.arrived, self.tags[:count])
        self.pictures, self.tags = self.pictures[count:], self.tags[count:]
        return first
