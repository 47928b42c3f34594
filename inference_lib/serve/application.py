"""The application: an HTTP request in, a class out. What computes the answer is an engine's business.

Both servers, and the tests, run this one. It reads and checks what comes, says no in one line, keeps the number of
requests under way below a limit, and counts. It never lets a request wait for ever.
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from inference_lib.serve.classifier import PICTURE
from inference_lib.serve.request import ClosedError, OverloadedError, TimedOutError
from inference_lib.support.errors import CourseError
from inference_lib.zoo import image_folder

MOST_PIXELS = 4096 * 4096
"""A picture may be small as a file and huge in memory: in colours, this one has 64 MB, and several times as much are
needed until it is upright, on a white ground, in 8 bits."""

RETRY_AFTER_S = 1
RETRY = {"Retry-After": str(RETRY_AFTER_S)}
PICTURE_BYTES = PICTURE[0] * PICTURE[1]
SMALL_GREY = image_folder.Preprocessing(height=PICTURE[0], width=PICTURE[1], channels=1)
LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


@dataclass(frozen=True)
class Prediction:
    """What an engine answers for one picture."""

    logits: np.ndarray
    batch: int
    """Pictures that were computed together."""


@dataclass(frozen=True)
class Limits:
    """What is refused."""

    body_bytes: int = 2 * 2**20
    under_way: int = 1024
    """Requests that are being answered; more get status 429."""
    timeout_s: float = 5.0
    """How long decoding one and the engine may take together, seconds; its body may take as long, too."""


class Application(Starlette):
    """An ASGI application (https://www.starlette.io) in front of an engine.

    Routes: POST /classify (a JPEG or PNG file), POST /classify-raw (784 bytes), GET /health (the process lives),
    /ready (every batch size is warm), /metrics (Prometheus' text format).
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray], Awaitable[Prediction]],
        ready: Callable[[], Awaitable[bool]],
        class_names: tuple[str, ...],
        limits: Limits,
    ) -> None:
        """Put the routes before an engine: ``predict`` takes a picture (uint8, 28 x 28)."""
        self._predict, self._ready, self._names, self._limits = predict, ready, class_names, limits
        self._under_way = 0
        self._count()
        super().__init__(
            routes=[
                Route("/classify", partial(self._answer, read=decode_aside), methods=["POST"]),
                Route("/classify-raw", partial(self._answer, read=raw), methods=["POST"]),
                Route("/health", self._health),
                Route("/ready", self._is_ready),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={HTTPException: _one_line, Exception: _one_line},
        )
        self.router.redirect_slashes = False

    def _count(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._answers = Counter("answers", "Answers, by status", ["status"], registry=registry)
        self._seconds = Histogram("answer_seconds", "Time to an answer", registry=registry, buckets=LATENCIES)
        batches = [2**power for power in range(11)]
        self._batch = Histogram("batch_size", "Pictures computed together", registry=registry, buckets=batches)
        Gauge("under_way", "Requests being answered", registry=registry).set_function(lambda: self._under_way)

    async def _answer(self, request: Request, read: Callable[[bytes], Awaitable[np.ndarray]]) -> Response:
        start, status = time.perf_counter(), 500
        try:
            if self._under_way >= self._limits.under_way:
                raise _busy(f"{self._under_way} requests are under way")
            self._under_way += 1
            try:
                prediction = await self._in_time(read(await self._body(request)))
            finally:
                self._under_way -= 1
            self._batch.observe(prediction.batch)
            status = 200
            index = int(prediction.logits.argmax())
            return JSONResponse({"class": self._names[index], "index": index, "batch": prediction.batch})
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self._answers.labels(status).inc()
            self._seconds.observe(time.perf_counter() - start)

    async def _body(self, request: Request) -> bytes:
        """Return the body, unless it is too slow or, whatever its header said, longer than it may be."""
        most, body = self._limits.body_bytes, bytearray()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise HTTPException(413, f"the body is longer than {most:,} bytes; send a smaller picture")
        except TimeoutError as error:
            raise HTTPException(408, f"the body did not come within {self._limits.timeout_s:g} s") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the body ended early") from error
        return bytes(body)

    async def _in_time(self, picture: Awaitable[np.ndarray]) -> Prediction:
        """Wait for the picture and ask the engine; its errors become statuses."""
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await self._predict(await picture)
        except HTTPException:  # of the picture: it says what is wrong
            raise
        except OverloadedError as error:
            raise _busy(str(error)) from error
        except (TimeoutError, TimedOutError) as error:
            raise HTTPException(504, f"no answer within {self._limits.timeout_s:g} s; try again later") from error
        except ClosedError as error:
            raise HTTPException(503, "the server is ending; ask another one", RETRY) from error
        except Exception as error:  # whatever an engine raises: the batch failed, or its worker died
            raise HTTPException(503, f"the batch was lost ({type(error).__name__}); try again", RETRY) from error

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _is_ready(self, _: Request) -> Response:
        if await self._ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: not every batch size is warm\n", 503, RETRY)

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")


def decode(body: bytes) -> np.ndarray:
    """Return the picture (uint8, 28 x 28, grey) in a JPEG or PNG file; HTTPException says what is wrong with it.

    It is the middle of a larger one, shrunk. Fashion-MNIST shows things bright on black; a photograph on white, and
    what has a white ground because it was transparent, should be inverted first.
    """
    try:
        image = image_folder.decode(io.BytesIO(body), ("JPEG", "PNG"), MOST_PIXELS, PICTURE)
    except image_folder.TooManyPixelsError as error:
        raise HTTPException(413, f"the picture has more than {MOST_PIXELS:,} pixels; send a smaller one") from error
    except CourseError as error:
        raise HTTPException(415, "the body is neither a JPEG nor a PNG file that can be read") from error
    return image_folder.fitted(image, SMALL_GREY)[0]


async def decode_aside(body: bytes) -> np.ndarray:
    """Decode in a thread: a large file would hold up everybody else."""
    return await asyncio.to_thread(decode, body)


async def raw(body: bytes) -> np.ndarray:
    """Return the picture (uint8, 28 x 28) in 784 bytes; HTTPException for another number of them."""
    if len(body) != PICTURE_BYTES:
        raise HTTPException(400, f"a raw picture has {PICTURE_BYTES} bytes (28 x 28, grey), this one {len(body)}")
    return np.frombuffer(body, np.uint8).reshape(PICTURE)


def _busy(why: str) -> HTTPException:
    return HTTPException(429, f"{why}; try again in {RETRY_AFTER_S} s", RETRY)


async def _one_line(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
    return PlainTextResponse("the server made a mistake; its log says more\n", 500)
