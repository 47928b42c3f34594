"""The application on Ray Serve: replicas of the model on as many GPUs, or machines, as Ray has.

Three rules that Ray does not enforce: a replica must be let have more requests than a batch holds, or batches stay
small (ray-project/ray#43288); pictures travel as bytes, because its object store is slow for floats (#64196); and a
fraction of a GPU is a number for the scheduler, it isolates nothing (#41432).
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from inference_lib.seam import Workload
from inference_lib.serve.application import Application, Prediction
from inference_lib.serve.replica import ModelReplica
from inference_lib.serve.server_process import free_port
from inference_lib.serve.settings import Settings
from inference_lib.support.errors import CourseError

# Read when Ray is imported. Nothing calls out. HAProxy takes the requests instead of a proxy in Python, and hands them
# to an HTTP server in the application's process; from there, a replica is called over gRPC. What a user has set wins.
# https://docs.ray.io/en/latest/serve/advanced-guides/performance.html
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")
os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")  # no balancer has to notice that we end

import ray
from ray import serve as ray_serve

NAME = "classifier"
END_S = 20.0
START_S = 600.0
CPUS = 2
"""Logical cores for each copy of the model: its own, and that of the application which answers HTTP for it."""


class RayReplica:
    """A replica as Ray wants it."""

    def __init__(self, settings: Settings) -> None:
        """Load the model and make every batch size warm; Ray sends requests only then."""
        hosts = sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())
        self._replica = ModelReplica(settings, ray_serve.get_replica_context().rank.local_rank, hosts)
        self.infer.set_max_batch_size(settings.max_batch)  # type: ignore[attr-defined]
        self.infer.set_batch_wait_timeout_s(settings.max_wait_s)  # type: ignore[attr-defined]

    @ray_serve.batch(max_concurrent_batches=1)
    async def infer(self, pictures: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        """Return logits and batch size of each of ``pictures``."""
        logits = await asyncio.to_thread(self._replica.infer, np.stack(pictures))
        return [(row, len(pictures)) for row in logits]

    async def ready(self) -> bool:
        """Return True: a replica that answers is warm."""
        return True


def application(settings: Settings) -> Any:
    """Return the application and the replicas behind it, bound together as Ray wants them."""
    gpu = settings.workload.on_gpu
    each = replace(settings.limits, under_way=-(-settings.limits.under_way // settings.replicas))
    replicas: Any = ray_serve.deployment(
        RayReplica,
        name="Replica",
        num_replicas=settings.replicas,
        max_ongoing_requests=4 * settings.max_batch,
        max_queued_requests=each.under_way,
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 if gpu else 0},
        graceful_shutdown_timeout_s=END_S,
        health_check_period_s=1,
    )

    def build() -> Application:
        handle = ray_serve.get_deployment_handle("Replica", app_name=NAME)

        async def predict(picture: np.ndarray) -> Prediction:
            return Prediction(*await handle.infer.remote(picture))

        async def ready() -> bool:
            try:
                return await asyncio.wait_for(handle.ready.remote(), 1.0)
            except Exception:  # no replica, or none that answers
                return False

        return Application(predict, ready, settings.workload.model.class_names, each)

    http: Any = ray_serve.deployment(
        ray_serve.ingress(build)(),
        name="Application",
        num_replicas=settings.replicas,  # its Python is the limit long before the model is
        max_ongoing_requests=each.under_way + 1,
        ray_actor_options={"num_cpus": 1},
        graceful_shutdown_timeout_s=END_S,
    )
    return http.bind(replicas.bind(settings))


def from_arguments(arguments: dict[str, Any]) -> Any:
    """Return the application for a configuration file of Ray Serve (``import_path`` and ``args``)."""
    given = dict(arguments)
    workload = Workload(given.pop("model"), 1, given.pop("precision", "fp32"), given.pop("device", "cuda"))
    return application(Settings(given.pop("backend"), workload, **given))


@contextmanager
def _own_haproxy() -> Iterator[None]:
    """Give HAProxy a folder and ports of its own: by default, all of Ray's servers on a machine have the same."""
    with TemporaryDirectory(prefix="haproxy-") as folder:
        os.environ |= {
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        }
        yield


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        CourseError: Ray has fewer GPUs than there are to be replicas.

    """
    if not settings.workload.on_gpu:  # otherwise Ray tells a replica to have one thread
        os.environ.setdefault("OMP_NUM_THREADS", str(len(settings.cores(0))))
    with _own_haproxy():
        _serve(settings)


def _serve(settings: Settings) -> None:
    ends = signal.getsignal(signal.SIGTERM)
    ray.init(
        num_cpus=CPUS * settings.replicas + 1,  # and one for what takes the requests
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=False,
    )
    signal.signal(signal.SIGTERM, ends)  # Ray put one of its own there
    try:
        found = int(ray.cluster_resources().get("GPU", 0))
        if settings.workload.on_gpu and found < settings.replicas:
            raise CourseError(f"{settings.replicas} replicas need as many GPUs, Ray sees {found}; choose fewer")
        ray_serve.start(http_options={"host": settings.host, "port": settings.port})
        ray_serve.run(application(settings), name=NAME, route_prefix="/")
        threading.Event().wait()
    finally:
        with suppress(Exception):  # it may never have come up
            ray_serve.delete(NAME)  # waits for what is under way
        ray_serve.shutdown()
        ray.shutdown()
