"""The application and the queue in one process: nothing between them but threads.

One replica works in the server's process. Of several, each has a process of its own: one that dies is replaced.
"""

import asyncio
from concurrent.futures import Future
from contextlib import ExitStack

import numpy as np
import uvicorn

from inference_lib.serve.application import Application, Limits, Prediction
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.replica import RemoteClassifier
from inference_lib.serve.request import Request
from inference_lib.serve.settings import Settings

GRACE_S = 20
"""How long the end of the server waits for answers."""


def application(queue: BatchQueue, class_names: tuple[str, ...], limits: Limits) -> Application:
    """Return the application in front of ``queue``."""

    async def predict(picture: np.ndarray) -> Prediction:
        answer: Future[Request] = Future()
        answer.set_running_or_notify_cancel()  # whoever asked may give up; the queue answers all the same
        queue.submit(picture, answer.set_result)
        request = await asyncio.wrap_future(answer)
        if request.error:
            raise request.error
        assert request.logits is not None
        return Prediction(request.logits[0], request.batch)

    async def ready() -> bool:
        return queue.ready

    return Application(predict, ready, class_names, limits)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that came before are answered."""
    with ExitStack() as stack:
        if settings.replicas == 1:
            made = settings.queue([stack.enter_context(settings.loaded())])
        else:
            made = settings.queue(stack.enter_context(settings.remotes()), RemoteClassifier.again)
        queue = stack.enter_context(made)
        uvicorn.run(
            application(queue, settings.workload.model.class_names, settings.limits),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
