"""A long load on replicas that are killed on purpose: every request is to be answered, and all be well again soon."""

import math
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import psutil

from inference_lib.serve.classifier import PICTURE
from inference_lib.serve.loops import OpenLoop
from inference_lib.serve.replica import RemoteClassifier
from inference_lib.serve.request import OverloadedError
from inference_lib.serve.service import measure_service
from inference_lib.serve.settings import Settings
from inference_lib.serve.simulator import Knobs, poisson
from inference_lib.serve.trials import simulated_rate
from inference_lib.support.errors import CourseError
from inference_lib.support.interrupts import uninterrupted
from inference_lib.support.progress import ticking

WINDOW_S = 1.0
"""Requests of so long count together where it is asked whether p99 is within its limit."""

SEEN_S = 10.0
"""Of a kill so shortly before the end, it is not said that nothing got well after it."""

SETTLE = 0.1
"""Part of the time after which memory is looked at: by then, everything was allocated once."""

LOAD = 0.8
"""Part of the highest rate that keeps p99 within its limit that is sent where no rate is named."""

WAITING = 0.5
"""Part of that limit in which all who wait can be computed: one batch, with another one under way before it."""


@dataclass(frozen=True)
class Soak:
    """What became of a long load."""

    load: OpenLoop
    rate: float
    kills: list[float]
    """When a replica was killed, seconds from the beginning."""
    replaced: int
    memory: list[int]
    """Resident memory of the queue's process now and then, bytes."""

    @property
    def lost(self) -> int:
        """Requests that nobody answered."""
        return int((np.isfinite(self.load.sent) & ~np.isfinite(self.load.answered)).sum())

    @property
    def lasted_s(self) -> float:
        """When the last request was due that was sent: early where the load was interrupted."""
        return float(self.load.due[np.isfinite(self.load.sent)].max(initial=0.0))

    def recovered_s(self, limit_ms: float, *, refusing: bool = False) -> list[float]:
        """Return, for each kill, the seconds until p99 of a second's requests was within the limit, all with logits.

        ``refusing``: of those that were let in; some may be refused at once, not all.
        """
        found = {when: self._recovered(when, limit_ms, refusing) for when in self.kills}
        return [after for when, after in found.items() if after < math.inf or when + SEEN_S <= self.lasted_s]

    def _recovered(self, kill: float, limit_ms: float, refusing: bool) -> float:
        load, begin = self.load, kill
        while begin + WINDOW_S <= self.lasted_s:
            inside = (load.due >= begin) & (load.due < begin + WINDOW_S)
            counted = inside & (load.errors != OverloadedError.__name__) if refusing else inside
            latency_ms = (load.answered - load.due)[counted] * 1e3
            quick = np.quantile(latency_ms, 0.99) <= limit_ms if counted.any() else not inside.any()
            if quick and not (load.errors[counted] != "").any():
                return begin - kill
            begin += WINDOW_S / 4
        return math.inf


def soak(
    settings: Settings,
    seconds: float,
    kill_every_s: float,
    limit_ms: float,
    rate: float | None = None,
    say: Callable[[str], object] = bool,
) -> Soak:
    """Put replicas under ``rate`` requests a second, or ``LOAD`` of what they carry, and kill one now and then.

    ``settings`` names the model, the number of replicas, the largest batch and the waiting time. No more may wait than
    the replicas that live compute in ``WAITING`` of ``limit_ms``.

    Raises:
        CourseError: no rate keeps p99 within ``limit_ms``.

    """
    with settings.remotes() as started:
        replicas = list(started)

        def again(dead: RemoteClassifier) -> RemoteClassifier:
            replicas.append(dead.again())
            return replicas[-1]

        with ThreadPoolExecutor(settings.replicas) as pool:  # all are busy: they may share a GPU, or the cores
            services = list(pool.map(measure_service, started))
        service = max(services, key=lambda service: service.capacity)  # other work disturbs; nothing makes one quicker
        most = int(WAITING * limit_ms / 1e3 * settings.replicas * service.capacity)
        limit = min(settings.limits.under_way, max(1, most))
        knobs = Knobs(settings.max_batch, settings.max_wait_s, settings.limits.under_way, settings.replicas)
        carried = simulated_rate(service, knobs, limit_ms)
        asked = rate or LOAD * carried
        if not asked:
            raise CourseError(f"no rate keeps p99 within {limit_ms:g} ms; allow smaller batches, or a longer time")
        say(f"{settings.replicas} replicas carry {carried:,.0f} requests a second, as simulated; {limit} may wait")
        say(f"{asked:,.0f} requests a second for {seconds:g} s")
        settings = replace(settings, limits=replace(settings.limits, under_way=limit))
        with settings.queue(started, again) as queue, ticking(seconds, "soak, s"):
            load = OpenLoop(queue, np.zeros(PICTURE, np.uint8), poisson(asked, max(1, round(asked * seconds))))
            kills, memory = _disturb(load, replicas, kill_every_s, say)
        return Soak(load, asked, kills, queue.replaced, memory)


def _disturb(
    load: OpenLoop, replicas: list[RemoteClassifier], kill_every_s: float, say: Callable[[str], object]
) -> tuple[list[float], list[int]]:
    """Run ``load``, and end it when interrupted; return when a replica was killed, and the memory now and then."""
    kills, memory, process = list[float](), list[int](), psutil.Process()
    last = load.due[-1]
    with suppress(KeyboardInterrupt), uninterrupted(load.end), ThreadPoolExecutor(1) as sender:
        sending = sender.submit(load.run)
        while not wait([sending], max(0.05, last / 200)).done:
            memory.append(process.memory_info().rss)
            alive = [replica for replica in replicas if replica.alive() and replica.pid]
            # in the last second, nobody could see any more whether it got well
            if alive and kill_every_s * (1 + len(kills)) <= load.now() < last - WINDOW_S:
                victim = alive[len(kills) % len(alive)]
                os.kill(victim.pid, signal.SIGKILL)  # type: ignore[arg-type]
                kills.append(load.now())
                say(f"{kills[-1]:.0f} s: killed process {victim.pid}")
        sending.result()
    return kills, memory


def growth_percent(memory: list[int]) -> float:
    """Return how much more memory the last tenth of samples shows than the first tenth after settling, percent."""
    settled = memory[int(SETTLE * len(memory)) :]
    part = max(1, len(settled) // 10)
    if len(settled) < 2:
        return 0.0
    return 100 * (fmean(settled[-part:]) / fmean(settled[:part]) - 1)
