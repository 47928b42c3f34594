"""The application and the queue in one process: nothing between them but threads.

One replica works in the server's process. Of several, each has a process of its own: one that dies is replaced.
"""

import asyncio
from contextlib import ExitStack, closing

import numpy as np
import uvicorn

from inference_lib.serve.application import Application, Limits, Prediction
from inference_lib.serve.classifier import Classifier
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.replica import RemoteClassifier
from inference_lib.serve.request import Request
from inference_lib.serve.settings import Settings

GRACE_S = 20
"""How long the end of the server waits for answers."""


def application(queue: BatchQueue, class_names: tuple[str, ...], limits: Limits) -> Application:
    """Return the application in front of ``queue``."""

    async def predict(picture: np.ndarray) -> Prediction:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Request] = loop.create_future()
        queue.submit(picture, lambda request: loop.call_soon_threadsafe(_hand_over, answered, request))
        request = await answered
        if request.error:
            raise request.error
        assert request.logits is not None
        return Prediction(request.logits[0], request.batch)

    async def ready() -> bool:
        return queue.ready

    return Application(predict, ready, class_names, limits)


def _hand_over(answered: "asyncio.Future[Request]", request: Request) -> None:
    if not answered.done():  # whoever asked may have given up
        answered.set_result(request)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that came before are answered."""
    with ExitStack() as stack:
        if settings.replicas == 1:
            classifiers: list[Classifier] = [stack.enter_context(settings.loaded())]
            remake = None
        else:
            remake = RemoteClassifier.again
            classifiers = [stack.enter_context(closing(settings.remote(n))) for n in range(settings.replicas)]
        queue = stack.enter_context(settings.queue(classifiers, remake))
        uvicorn.run(
            application(queue, settings.workload.model.class_names, settings.limits),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
