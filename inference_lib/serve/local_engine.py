"""The application and the queue in one process: nothing between them but threads."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from inference_lib.serve.application import Application, Limits, Prediction
from inference_lib.serve.queue import BatchQueue, Request

GRACE_S = 20
"""How long the end of the server waits for answers."""


def application(queue: BatchQueue, class_names: tuple[str, ...], limits: Limits | None = None) -> Application:
    """Return the application in front of ``queue``."""

    async def predict(picture: np.ndarray) -> Prediction:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Request] = loop.create_future()
        queue.submit(picture, lambda request: loop.call_soon_threadsafe(_hand_over, answered, request))
        request = await answered
        if request.error:
            raise request.error
        assert request.logits is not None
        return Prediction(request.logits, request.batch)

    async def ready() -> bool:
        return queue.ready

    return Application(predict, ready, class_names, limits)


def _hand_over(answered: "asyncio.Future[Request]", request: Request) -> None:
    if not answered.done():  # whoever asked may have given up
        answered.set_result(request)


def serve(app: Application, host: str, port: int, started: Callable[[], object] = bool) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that came before are answered."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started()

    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S
    )
    Server(config).run()
