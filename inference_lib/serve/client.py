"""Requests over HTTP, sent at their time: what a load generator needs of a client."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from inference_lib.support.errors import CourseError

CONNECTIONS = 512
ANSWER_S = 30.0
"""How long an answer is waited for."""


class HTTPError(CourseError):
    """An answer that is none."""

    def __init__(self, status: int, said: str) -> None:
        """Keep the status and the beginning of what the server said."""
        super().__init__(f"{status}: {said[:200]}")
        self.status = status


def kind_of(error: Exception) -> str:
    """Return the kind of error that a request got: over HTTP by its status, for a refusal (429) is no crash (503)."""
    return f"HTTP {error.status}" if isinstance(error, HTTPError) else type(error).__name__


@dataclass(frozen=True)
class Reply:
    """What came back of one request."""

    status: int
    error: Exception | None
    tags: Sequence[Any] = ()
    """What whoever asked knows the picture by."""


class Client(AbstractContextManager["Client"]):
    """Pictures as raw bytes to one server, over connections that are kept open, from one thread with an event loop."""

    limit = CONNECTIONS

    def __init__(self, url: str) -> None:
        """Start the thread."""
        self.length = 0
        """Pictures without an answer yet."""
        self._lock, self._answered = threading.Lock(), Counter[int]()
        self._url = f"{url.rstrip('/')}/classify-raw"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(ANSWER_S)

    async def _open(self) -> aiohttp.ClientSession:
        limits, connector = aiohttp.ClientTimeout(total=ANSWER_S), aiohttp.TCPConnector(limit=CONNECTIONS)
        return aiohttp.ClientSession(connector=connector, timeout=limits)

    @property
    def batches(self) -> Counter[int]:
        """About how many batches of each size the server computed, by what it told in its answers."""
        return Counter({size: round(count / size) for size, count in list(self._answered.items())})

    def submit(self, picture: np.ndarray, done: Callable[[Reply], object]) -> None:
        """Send a picture (uint8, 28 x 28) and return; ``done`` gets the reply, in the client's thread."""
        self.submit_many(picture[None], (None,), lambda replies: done(replies[0]))

    def submit_many(self, pictures: np.ndarray, tags: Sequence[Any], done: Callable[[list[Reply]], object]) -> None:
        """Send pictures (uint8, N x 28 x 28), each in a request of its own; ``done`` gets their replies one by one."""
        with self._lock:
            self.length += len(pictures)
        for picture, tag in zip(pictures, tags, strict=True):
            asyncio.run_coroutine_threadsafe(self._post(picture.tobytes(), tag, done), self._loop)

    async def _post(self, body: bytes, tag: Any, done: Callable[[list[Reply]], object]) -> None:
        try:
            headers = {"Content-Type": "application/octet-stream"}
            async with self._session.post(self._url, data=body, headers=headers) as response:
                said = await response.text()
                failed = HTTPError(response.status, said) if response.status != 200 else None
                reply = Reply(response.status, failed, (tag,))
            if not failed:
                self._answered[json.loads(said)["batch"]] += 1
        except Exception as error:  # a connection that broke, or an answer that did not come
            reply = Reply(0, error, (tag,))
        with self._lock:
            self.length -= 1
        done([reply])

    def close(self) -> None:
        """Close the connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result(ANSWER_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        self._loop.close()

    def __exit__(self, *exc: object) -> None:
        self.close()
