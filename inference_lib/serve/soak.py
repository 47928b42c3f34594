"""A long load on replicas that are killed on purpose: every request is to be answered, and all be well again soon."""

import math
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import psutil

from inference_lib.serve.classifier import PICTURE
from inference_lib.serve.loops import OpenLoop
from inference_lib.serve.replica import RemoteClassifier
from inference_lib.serve.service import measure_service
from inference_lib.serve.settings import Settings
from inference_lib.serve.simulator import poisson
from inference_lib.support.interrupts import uninterrupted
from inference_lib.support.progress import ticking

WINDOW_S = 1.0
"""Requests of so long count together where it is asked whether p99 is within its limit."""

SEEN_S = 10.0
"""Of a kill so shortly before the end, it is not said that nothing got well after it."""

SETTLE = 0.1
"""Part of the time after which memory is looked at: by then, everything was allocated once."""

LOAD = 0.8
"""Part of what the replicas carry that is sent where no rate is named."""


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

    def recovered_s(self, limit_ms: float) -> list[float]:
        """Return, for each kill, the seconds until p99 of a second's requests was within the limit, all answered."""
        found = {when: self._recovered(when, limit_ms) for when in self.kills}
        return [after for when, after in found.items() if after < math.inf or when + SEEN_S <= self.lasted_s]

    def _recovered(self, kill: float, limit_ms: float) -> float:
        load, begin = self.load, kill
        while begin + WINDOW_S <= self.lasted_s:
            inside = (load.due >= begin) & (load.due < begin + WINDOW_S)
            latency_ms = (load.answered - load.due)[inside] * 1e3
            quick = np.quantile(latency_ms, 0.99) <= limit_ms if inside.any() else True
            if quick and not (load.errors[inside] != "").any():
                return begin - kill
            begin += WINDOW_S / 4
        return math.inf


def soak(
    settings: Settings,
    seconds: float,
    kill_every_s: float,
    rate: float | None = None,
    say: Callable[[str], object] = bool,
) -> Soak:
    """Put replicas under ``rate`` requests a second, or ``LOAD`` of what they can do, and kill one now and then.

    ``settings`` names the model, the number of replicas, the largest batch and the waiting time.
    """
    with settings.remotes() as started:
        replicas = list(started)

        def again(dead: RemoteClassifier) -> RemoteClassifier:
            replicas.append(dead.again())
            return replicas[-1]

        with ThreadPoolExecutor(settings.replicas) as pool:  # all are busy: they may share a GPU, or the cores
            asked = rate or LOAD * sum(service.capacity for service in pool.map(measure_service, started))
        say(f"{settings.replicas} replicas, {asked:,.0f} requests a second for {seconds:g} s")
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
