"""Stand-ins for what tests of serving can do without: a model, and a socket."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PICTURE = np.zeros((28, 28), np.uint8)


class Told:
    """A classifier whose logits tell the first pixel of each picture; it can be held up, fail, or die of a batch."""

    def __init__(self, sizes: Sequence[int] = (1, 2, 4, 8), depth: int = 1) -> None:
        self.sizes, self.depth = tuple(sizes), depth
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()
        self.fails: Exception | None = None
        self.dead = self.closed = False

    def submit(self, pictures: np.ndarray) -> Callable[[], np.ndarray]:
        batch = list(pictures)

        def logits() -> np.ndarray:
            self.started.set()
            assert self.go.wait(10), "nobody let the classifier go"
            self.batches.append(len(batch))
            if self.fails:
                raise self.fails
            return np.array([np.eye(10, dtype=np.float32)[picture[0, 0] % 10] for picture in batch])

        return logits

    def alive(self) -> bool:
        return not (self.dead and self.batches)

    def close(self) -> None:
        self.closed = True


def picture(value: int) -> np.ndarray:
    return np.full((28, 28), value, np.uint8)


def ask(app: Callable, *request: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    """Send one request (see ``asked``) from outside of any event loop."""
    return asyncio.run(asked(app, *request, **more))


async def asked(
    app: Callable,
    method: str = "POST",
    path: str = "/classify-raw",
    body: bytes | list[bytes] = b"",
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Send one request through ASGI; return status, headers and body."""
    parts = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": part, "more_body": number + 1 < len(parts)}
        for number, part in enumerate(parts)
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": "",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()],
        "client": ("test", 1),
        "server": ("test", 80),
    }
    sent: list[dict] = []

    async def receive() -> dict:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    content = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, content
