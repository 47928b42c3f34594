"""A long load on replicas that are killed on purpose: every request is to be answered, and all be well again soon."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import psutil

from inference_lib.serve.classifier import PICTURE
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.replica import RemoteClassifier
from inference_lib.serve.service import measure_service
from inference_lib.serve.settings import Settings
from inference_lib.serve.simulator import poisson
from inference_lib.support.progress import ticking

WINDOW_S = 1.0
"""Requests of so long count together where it is asked whether p99 is within its limit."""

SETTLE = 0.1
"""Part of the time after which memory is looked at: by then, everything was allocated once."""

LAST_ANSWERS_S = 60.0

LOAD = 0.8
"""Part of what the replicas carry that is sent where no rate is named."""


@dataclass(frozen=True)
class Soak:
    """What became of a long load."""

    seconds: float
    rate: float
    sent: int
    answered: int
    errors: dict[str, int]
    """Requests that were answered with the reason why there is nothing, by kind."""
    kills: int
    replaced: int
    p99_ms: float
    """Of the requests that got logits."""
    recovered_s: list[float]
    """After each kill: seconds until p99 of a second's requests was within the limit, all of them answered."""
    memory_growth_percent: float
    """Resident memory of the queue's process, the last tenth of the time against the first after settling."""

    @property
    def lost(self) -> int:
        """Requests that nobody answered."""
        return self.sent - self.answered - sum(self.errors.values())


def soak(
    settings: Settings,
    seconds: float,
    kill_every_s: float,
    limit_ms: float = 100.0,
    rate: float | None = None,
    say: Callable[[str], object] = bool,
) -> Soak:
    """Put replicas under ``rate`` requests a second, or ``LOAD`` of what they can do, and kill one now and then.

    ``settings`` names the model, the number of replicas, the largest batch and the waiting time.
    """
    made: list[RemoteClassifier] = []

    def again(dead: RemoteClassifier) -> RemoteClassifier:
        made.append(dead.again())
        return made[-1]

    with ExitStack() as stack:
        for number in range(settings.replicas):
            made.append(stack.enter_context(closing(settings.remote(number))))
        asked = rate or LOAD * _capacity(made)
        say(f"{settings.replicas} replicas, {asked:,.0f} requests a second for {seconds:g} s")
        with settings.queue(list(made), again) as queue, ticking(seconds, "soak, s"):
            return _Load(queue, made, asked, seconds).run(kill_every_s, limit_ms, say)


def _capacity(replicas: list[RemoteClassifier]) -> float:
    """Return what replicas carry that are all busy, requests a second: they may share a GPU, or the cores."""
    with ThreadPoolExecutor(len(replicas)) as pool:
        return sum(service.capacity for service in pool.map(measure_service, replicas))


class _Load:
    """The requests of a soak: times in arrays that are as large in the beginning as in the end."""

    def __init__(self, queue: BatchQueue, replicas: list[RemoteClassifier], rate: float, seconds: float) -> None:
        self.queue, self.replicas, self.rate, self.seconds = queue, replicas, rate, seconds
        self.due = poisson(rate, max(1, round(rate * seconds)))
        self.latency_s = np.full(len(self.due), np.nan)
        self.errors = np.zeros(len(self.due), np.int8)
        self.kinds: dict[str, int] = {}
        self._lock = threading.Lock()
        self.memory: list[int] = []
        self.kills: list[float] = []
        self.start = time.perf_counter()

    def run(self, kill_every_s: float, limit_ms: float, say: Callable[[str], object]) -> Soak:
        ended = threading.Event()
        helpers = [
            threading.Thread(target=self._kill, args=(kill_every_s, ended, say), daemon=True),
            threading.Thread(target=self._watch, args=(ended,), daemon=True),
        ]
        self.start = time.perf_counter()
        for helper in helpers:
            helper.start()
        for number, when in enumerate(self.due):
            left = when - (time.perf_counter() - self.start)
            if left > 0:
                time.sleep(left)
            self._send(number)
        ended.set()
        deadline = time.monotonic() + LAST_ANSWERS_S
        while np.isnan(self.latency_s).any() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._report(limit_ms)

    def _send(self, number: int) -> None:
        try:
            self.queue.submit(np.zeros(PICTURE, np.uint8), lambda request: self._note(number, request.error))
        except Exception as error:  # a refusal is an answer
            self._note(number, error)

    def _note(self, number: int, error: Exception | None) -> None:
        if error is not None:
            with self._lock:
                self.errors[number] = self.kinds.setdefault(type(error).__name__, len(self.kinds) + 1)
        self.latency_s[number] = time.perf_counter() - self.start - self.due[number]

    def _kill(self, every_s: float, ended: threading.Event, say: Callable[[str], object]) -> None:
        number = 0
        last = self.due[-1] - WINDOW_S  # later, nobody could see whether it got well
        while not ended.wait(every_s) and time.perf_counter() - self.start < last:
            alive = [replica for replica in self.replicas if replica.alive() and replica.pid]
            if alive:
                victim = alive[number % len(alive)]
                os.kill(victim.pid, signal.SIGKILL)  # type: ignore[arg-type]
                self.kills.append(time.perf_counter() - self.start)
                say(f"{self.kills[-1]:.0f} s: killed process {victim.pid}")
                number += 1

    def _watch(self, ended: threading.Event) -> None:
        process = psutil.Process()
        while not ended.wait(max(0.05, self.seconds / 200)):
            self.memory.append(process.memory_info().rss)

    def _report(self, limit_ms: float) -> Soak:
        answered = ~np.isnan(self.latency_s) & (self.errors == 0)
        counts = {kind: int((self.errors == number).sum()) for kind, number in self.kinds.items()}
        return Soak(
            self.seconds,
            self.rate,
            len(self.due),
            int(answered.sum()),
            counts,
            len(self.kills),
            self.queue.replaced,
            float(np.percentile(self.latency_s[answered], 99)) * 1e3 if answered.any() else float("nan"),
            [self._recovered(when, limit_ms) for when in self.kills],
            growth_percent(self.memory),
        )

    def _recovered(self, kill: float, limit_ms: float) -> float:
        """Return the seconds after ``kill`` until a window was good; infinite where none was."""
        begin = kill
        while begin + WINDOW_S <= self.due[-1]:
            inside = (self.due >= begin) & (self.due < begin + WINDOW_S)
            quick = np.quantile(self.latency_s[inside], 0.99) * 1e3 <= limit_ms if inside.any() else True
            if quick and not self.errors[inside].any():
                return begin - kill
            begin += WINDOW_S / 4
        return float("inf")


def growth_percent(memory: list[int]) -> float:
    """Return how much more memory the last tenth of samples shows than the first tenth after settling, percent."""
    settled = memory[int(SETTLE * len(memory)) :]
    part = max(1, len(settled) // 10)
    if len(settled) < 2:
        return 0.0
    return 100 * (fmean(settled[-part:]) / fmean(settled[:part]) - 1)
