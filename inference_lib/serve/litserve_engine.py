"""The application on LitServe: HTTP in one process, the model in others, LitServe's queue between them.

LitServe would decode requests where the model runs, and let them wait for ever. So its routes are replaced by the
application's, which decodes and refuses in the HTTP process and puts a limit on every wait.
"""

import asyncio
import logging
import os
import queue
import threading
import time
import uuid
from types import SimpleNamespace
from typing import Any

import litserve as ls
import numpy as np
from litserve.loops.simple_loops import BatchedLoop
from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus
from starlette.routing import Mount

from inference_lib.serve.application import Application, Prediction
from inference_lib.serve.classifier import out_of_the_collectors_way
from inference_lib.serve.replica import ModelReplica
from inference_lib.serve.request import FailedError
from inference_lib.serve.settings import Settings
from inference_lib.support.errors import CourseError

WATCH_S = 0.2
"""How often dead workers are looked for."""

WATCH = "litserve-monitoring"
"""The name of the thread in which LitServe does so."""

END_S = 30.0

IDLE_S = 1.0
"""How long an idle worker waits before it looks whether it should end."""


class PatientLoop(BatchedLoop):
    """LitServe's loop with batches, which waits for the first request instead of asking for it without a pause.

    Asking goes through the process that holds the queue: an idle worker kept a core, and that process, busy.
    """

    def get_batch_requests(self, lit_api: ls.LitAPI, request_queue: Any, transport: Any) -> tuple[list, list]:
        """Return the next batch, and the requests that waited too long."""
        try:
            first = [request_queue.get(timeout=IDLE_S)]
        except queue.Empty:
            return [], []
        led = SimpleNamespace(
            get=lambda timeout: first.pop() if first else request_queue.get(timeout=timeout),
            get_nowait=lambda: first.pop() if first else request_queue.get_nowait(),
        )
        return super().get_batch_requests(lit_api, led, transport)


class ClassifierAPI(ls.LitAPI):
    """The model in its process, as LitServe wants it: pictures were decoded before, and answers are written after."""

    def __init__(self, settings: Settings) -> None:
        loop = PatientLoop() if settings.max_batch > 1 else "auto"
        super().__init__(max_batch_size=settings.max_batch, batch_timeout=settings.max_wait_s, loop=loop)
        self._settings = settings

    def setup(self, device: str) -> None:
        """Load the model and make every batch size warm; the worker counts as ready only then."""
        number = int(os.environ["LITSERVE_WORKER_ID"])  # which of the GPUs it has, or which part of the cores
        self._replica = ModelReplica(self._settings, number)

    def predict(self, x: Any) -> Any:
        """Return logits and batch size: of pictures that LitServe stacked, or of one where the largest batch is 1.

        LitServe calls this otherwise once batching is on (Lightning-AI/LitServe#412).
        """
        if self.max_batch_size == 1:
            return self._infer(x[None])[0]
        return self._infer(x)

    def _infer(self, pictures: np.ndarray) -> list[tuple[np.ndarray, int]]:
        return [(row, len(pictures)) for row in self._replica.infer(pictures)]


class Server(ls.LitServer):
    """LitServe with the application's routes, an end for every wait, and answers for requests in flight at the end."""

    def __init__(self, settings: Settings) -> None:
        self._api = ClassifierAPI(settings)
        gpu = settings.workload.on_gpu
        super().__init__(
            self._api,
            accelerator="cuda" if gpu else "cpu",
            devices=settings.replicas if gpu else 1,
            workers_per_device=1 if gpu else settings.replicas,
            timeout=settings.limits.timeout_s,
            restart_workers=True,
            disable_openapi_url=True,
        )
        self.monitor_internal = WATCH_S
        names = settings.workload.model.class_names
        self.application = Application(self._predict, self._all_ready, names, settings.limits)
        self.app.router.routes[:] = [Mount("/", self.application)]
        self._watching: asyncio.Task[None] | None = None

    async def _predict(self, picture: np.ndarray) -> Prediction:
        """Put a picture into LitServe's queue and wait for its answer."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        uid, item = str(uuid.uuid4()), ResponseBufferItem(asyncio.Event())
        self.response_buffer[uid] = item
        try:
            where = (self.app.response_queue_id, uid, time.monotonic(), picture)  # type: ignore[attr-defined]
            self._get_request_queue(self._api.api_path).put(where)
            await item.event.wait()
        finally:
            self.response_buffer.pop(uid, None)
        answer, status = item.response
        if status != LitAPIStatus.OK:
            raise FailedError("the batch failed, or its worker died")
        return Prediction(*answer)

    async def _watch(self) -> None:
        """Answer what a worker had taken when it died: it will not. LitServe does so in another process than ours."""
        while True:
            await asyncio.sleep(WATCH_S)
            states = dict(self.workers_setup_status)
            starting = {
                int(name.rpartition("_")[2]) for name, state in states.items() if state != WorkerSetupStatus.READY
            }
            for item in list(self.response_buffer.values()):
                if item.worker_id in starting and not item.event.is_set():
                    item.response = (None, LitAPIStatus.ERROR)
                    item.event.set()

    async def _all_ready(self) -> bool:
        states = dict(self.workers_setup_status).values()
        return bool(states) and all(state == WorkerSetupStatus.READY for state in states)

    def _perform_graceful_shutdown(self, manager: Any, uvicorn_workers: Any, shutdown_reason: str = "normal") -> None:
        """End the HTTP processes first: they wait for what is under way, which LitServe would cut off.

        Its watch over the workers ends before them: it would start anew what is to end, and complain of the manager's
        end, of which nobody tells it.
        """
        logging.getLogger("litserve.server").setLevel(logging.CRITICAL)
        self._end_watch()
        for worker in uvicorn_workers.values():
            worker.terminate()
        for worker in uvicorn_workers.values():
            worker.join(END_S)
        # the signal may have interrupted a conversation with the manager, and another word to it would never return
        super()._perform_graceful_shutdown(manager, {}, "keyboard_interrupt")

    def _end_watch(self) -> None:
        """Wait until LitServe's thread that starts workers anew has ended: it looks at this event, and is a daemon."""
        self._shutdown_event = threading.Event()  # the one before is the manager's
        self._shutdown_event.set()
        for thread in threading.enumerate():
            if thread.name == WATCH:
                thread.join(END_S)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        CourseError: no worker came up.

    """
    server = Server(settings)
    try:
        with out_of_the_collectors_way():  # the HTTP process is forked from this one
            server.run(
                host=settings.host,
                port=settings.port,
                num_api_servers=1,
                log_level="warning",
                generate_client_file=False,
                access_log=False,
            )
    except RuntimeError as error:
        raise CourseError(f"{error}; the lines above say why") from error
