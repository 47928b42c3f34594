"""Load by MLPerf's own generator, under its own rules for what counts as a valid run.

LoadGen decides when requests are sent, measures each from the moment at which it was to be sent, and says in the end
whether the run was long enough, large enough and quick enough to count (https://github.com/mlcommons/inference, folder
loadgen; Reddi et al., "MLPerf Inference Benchmark", 2020). A run that it calls invalid is kept, and says so.
"""

import math
import re
import tempfile
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlperf_loadgen as loadgen
import numpy as np

from inference_lib.measure.pauses import watched_pauses
from inference_lib.serve.classifier import out_of_the_collectors_way
from inference_lib.serve.client import Client, Reply, kind_of
from inference_lib.serve.queue import BatchQueue, mean_batch
from inference_lib.serve.request import Request
from inference_lib.support.errors import CourseError, unknown_name
from inference_lib.support.interrupts import uninterrupted
from inference_lib.support.progress import bar, ticking

Target = BatchQueue | Client
"""What is put under load."""

SCENARIOS = ("single_stream", "multi_stream", "server", "offline")
"""One caller who waits; one caller who sends eight at once and waits; requests at random times; all at once."""

LIMIT_S = 60.0
"""How long a run may go on beyond three times its least duration: LoadGen then stops sending."""

ANSWER_S = 60.0
"""How long LoadGen may hear of no request before the run is given up: by itself, it would wait for ever."""

QUANTILES = {"p50": "50.00", "p90": "90.00", "p99": "99.00", "p99.9": "99.90"}

RETRY_S = 0.0005

HELD_UP = 0.25
"""Of a run's p99: where the machine's own pauses are more of it, the run says little of what was under load."""


@dataclass
class Run:
    """One run of LoadGen: what was asked, what came out, and whether it counts."""

    scenario: str
    valid: bool
    reasons: list[str]
    """Why it does not count: rules of LoadGen that were not kept, requests without an answer."""
    rate: float | None
    """Requests a second that were to be sent; only the server scenario has such a number."""
    samples_per_s: float
    latency_ms: dict[str, float]
    """p50, p90, p99 and p99.9, from the scheduled time to the answer, refused requests included."""
    errors: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by the kind of error."""
    batches: Counter[int] = field(default_factory=Counter)
    """How many batches of each size were computed."""
    longest_queue: int = 0
    """The most requests that were seen waiting."""
    busy: dict[str, float] = field(default_factory=dict)
    """Cores that processes kept busy, by name; empty where nobody looked."""
    held_up_ms: float | None = None
    """What one request in a hundred would have waited for this machine alone, see ``measure/pauses.py``."""

    @property
    def verdict(self) -> str:
        """Whether it counts, and why not; and whether its latencies are the machine's."""
        said = "valid" if self.valid else f"invalid: {'; '.join(self.reasons)}"
        disturbed = (self.held_up_ms or 0.0) > HELD_UP * self.latency_ms["p99"]
        return f"{said}; disturbed: the machine held programs up for {self.held_up_ms:.1f} ms" if disturbed else said

    def keeps(self, limit_ms: float) -> bool:
        """Whether p99 was within ``limit_ms``, and every request was answered."""
        return self.latency_ms["p99"] <= limit_ms and not self.errors

    @property
    def mean_batch(self) -> float:
        """Requests that were computed together, on average over batches."""
        return mean_batch(self.batches)


def run_loadgen(
    target: Target,
    pictures: Sequence[np.ndarray],
    scenario: str,
    seconds: float,
    rate: float = 100.0,
    limit_ms: float = 100.0,
    seed: int = 0,
) -> Run:
    """Put ``target`` under load for at least ``seconds`` seconds.

    Args:
        target: a queue, or an HTTP client.
        pictures: what is sent (uint8, 28 x 28), drawn at random.
        scenario: one of ``SCENARIOS``.
        seconds: LoadGen's least duration; it may go on until it has queries enough.
        rate: requests a second to send (server), or to expect (the others, from which LoadGen plans the run).
        limit_ms: the latency that 99 of 100 requests must keep (server).
        seed: of the times and the choice of pictures.

    Raises:
        CourseError: an unknown scenario, or requests that nobody answers.

    """
    if scenario not in SCENARIOS:
        raise unknown_name("scenario", scenario, SCENARIOS)
    before = Counter(target.batches)
    load = _Load(target, pictures, patient=scenario == "offline")
    settings = _settings(scenario, seconds, rate, limit_ms, seed)
    with tempfile.TemporaryDirectory() as folder:
        system = loadgen.ConstructFastSUT(load.issue, lambda: None)
        library = loadgen.ConstructQSL(len(pictures), len(pictures), lambda _: None, lambda _: None)
        try:
            shown = ticking(seconds, f"load, s ({scenario.replace('_', ' ')})")
            # in a thread: an exception of Ctrl-C in LoadGen's own calls would end the process
            calm = out_of_the_collectors_way()
            with uninterrupted(load.give_up), ThreadPoolExecutor(1) as thread, shown, calm, watched_pauses() as pauses:
                running = thread.submit(loadgen.StartTestWithLogSettings, system, library, settings, _quiet(folder))
                while not wait([running], ANSWER_S / 20).done:
                    load.look()
                running.result()
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroyFastSUT(system)
        if load.unanswered:
            raise CourseError(
                f"{load.unanswered} requests got no answer, and there was none at all for {ANSWER_S:g} s; "
                "try one picture by itself: where that hangs, too, it is the model or its framework"
            )
        summary = Path(folder, "mlperf_log_summary.txt").read_text()
    run = read_summary(summary, scenario, rate if scenario == "server" else None, load.errors)
    run.held_up_ms = pauses.quantile_ms()
    run.batches, run.longest_queue = Counter(target.batches) - before, load.longest
    return run


class _Load:
    """Sends what is due together as one request, and completes at once what ended together.

    An object, a lock and a call for each request would take longer than a fast model does.

    LoadGen waits until it has heard of every request that it sent, so it is told of all: answered, refused, or given up
    because nobody answers any more. What is answered later than that is not told again.
    """

    def __init__(self, target: Target, pictures: Sequence[np.ndarray], patient: bool) -> None:
        self.errors: Counter[str] = Counter()
        self.longest = self.unanswered = 0
        """The most who waited, and how many got no answer when the run was given up."""
        self._lock, self._given_up = threading.RLock(), False  # a signal's handler may give up while we look
        self._target, self._pictures = target, np.asarray(pictures)
        self._room = max(1, target.limit // 2) if patient else 0
        self._under_way, self._news = set[int](), time.monotonic()

    def issue(self, samples: list[int], indices: list[int]) -> None:
        """Send requests for LoadGen, or tell it at once that nobody will answer."""
        with self._lock:
            self._news = time.monotonic()
            given_up = self._given_up
            self._under_way.update(() if given_up else samples)
        if given_up:
            self._tell(samples)
        else:
            self._send(samples, indices)

    def _send(self, samples: list[int], indices: list[int]) -> None:
        self.longest = max(self.longest, self._target.length)
        step = self._room or len(samples)
        for start in range(0, len(samples), step):
            part = slice(start, start + step)
            while self._target.length > self._target.limit - self._room and not self._given_up:
                time.sleep(RETRY_S)  # offline, there is all the time in the world
            if self._given_up:
                return
            try:
                self._target.submit_many(self._pictures.take(indices[part], 0), samples[part], self._done)
            except Exception as error:  # the target has ended, or does not take such pictures
                self._complete(samples[part], error)

    def _done(self, answered: list[Request] | list[Reply]) -> None:
        self._complete([sample for request in answered for sample in request.tags], answered[0].error)

    def _complete(self, samples: Sequence[int], error: Exception | None) -> None:
        with self._lock:
            if self._given_up:
                return
            self._news = time.monotonic()
            self._under_way.difference_update(samples)
            if error is not None:
                self.errors[kind_of(error)] += len(samples)
        self._tell(samples)

    def _tell(self, samples: Iterable[int]) -> None:
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample, 0, 0) for sample in samples])

    def give_up(self) -> None:
        """Wait for nobody any more."""
        with self._lock:
            self._given_up, left, self._under_way = True, self._under_way, set()
        self._tell(left)

    def look(self) -> None:
        """Give the run up where nothing was heard of the requests under way for ``ANSWER_S`` seconds."""
        with self._lock:
            silent = self._under_way and time.monotonic() - self._news > ANSWER_S
            self.unanswered += len(self._under_way) if silent else 0
        if silent:
            self.give_up()


class _Outside(_Load):
    """Does what is done for LoadGen, without it, and notes the seconds that each request was outside of the queue."""

    def __init__(self, target: Target, pictures: Sequence[np.ndarray], due: Sequence[float]) -> None:
        super().__init__(target, pictures, patient=False)
        self._due, self.failed = due, list[Exception]()
        self.found, self._start = list[float](), time.perf_counter()

    def send(self) -> None:
        sent = 0
        while sent < len(self._due):
            time.sleep(max(0.0, self._due[sent] - (time.perf_counter() - self._start)))
            samples = list(range(sent, bisect_right(self._due, time.perf_counter() - self._start)))
            if samples:
                self.issue(samples, [sample % len(self._pictures) for sample in samples])
            sent += len(samples)

    def _done(self, answered: list[Any]) -> None:
        super()._done(answered)
        told = time.perf_counter()
        for request in answered:
            if request.error:
                self.failed.append(request.error)
                continue
            outside = request.arrived - self._start + told - request.finished
            self.found += [outside - self._due[sample] for sample in request.tags]

    def _tell(self, samples: Iterable[int]) -> None:
        [loadgen.QuerySampleResponse(sample, 0, 0) for sample in samples]  # as long as it takes: nobody is told


def outside_s(queue: BatchQueue, pictures: Sequence[np.ndarray], due: Sequence[float]) -> list[float]:
    """Send a picture at each of the times ``due`` as LoadGen does; return the seconds of each outside of the queue.

    They are those until its arrival there from the time at which it was due, and those from the end of its batch until
    whoever asked is told. The queue is closed. Raise the reason where no request was computed; of some, a slow moment
    of the machine may be the reason.
    """
    load = _Outside(queue, pictures, due)
    load.send()
    queue.close()
    if not load.found:
        raise load.failed[0]
    return load.found


def _settings(scenario: str, seconds: float, rate: float, limit_ms: float, seed: int) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario.title().replace("_", ""))
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(seconds * 1e3)
    settings.max_duration_ms = round((3 * seconds + LIMIT_S) * 1e3)
    settings.server_target_qps = settings.offline_expected_qps = rate
    settings.server_target_latency_ns = round(limit_ms * 1e6)
    settings.server_target_latency_percentile = 0.99
    settings.server_coalesce_queries = True
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = round(1e9 / rate)
    settings.schedule_rng_seed = settings.sample_index_rng_seed = settings.qsl_rng_seed = seed + 1
    return settings


def _quiet(folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = folder, False
    settings = loadgen.LogSettings()
    settings.log_output, settings.enable_trace = output, False
    settings.log_mode = loadgen.LoggingMode.EndOfTestOnly  # otherwise, once a second, it computes beside the server
    return settings


def read_summary(summary: str, scenario: str, rate: float | None, errors: Counter[str]) -> Run:
    """Return what LoadGen's summary says.

    Raises:
        CourseError: it has no result.

    """
    lines = dict(re.findall(r"^\s*([^:\n]+?)\s*:\s*(.+?)\s*$", summary, re.MULTILINE))
    if "Result is" not in lines:
        raise CourseError(f"LoadGen's summary names no result: {summary[:200]!r}; run it again")
    broken = [name for name, said in lines.items() if name.endswith(RULE) and said.upper() == "NO"]
    reasons = [f"{name.removesuffix(RULE).lower()} not kept" for name in broken]
    if errors:
        named = ", ".join(f"{count} {kind}" for kind, count in sorted(errors.items()))
        reasons.append(f"requests without an answer: {named}")
    per_s = next((lines[name] for name in PER_SECOND if name in lines), "nan")
    each = 8 if scenario == "multi_stream" else 1
    return Run(
        scenario,
        lines["Result is"] == "VALID" and not errors,
        reasons,
        rate,
        float(per_s) if scenario != "multi_stream" else each * 1e9 / float(lines["Mean latency (ns)"]),
        {name: float(lines[f"{percent} percentile latency (ns)"]) / 1e6 for name, percent in QUANTILES.items()},
        errors,
    )


RULE = " satisfied"

PER_SECOND = ("Completed samples per second", "Samples per second", "QPS w/ loadgen overhead")
"""What the scenarios call it."""


def highest_rate(
    measure: Callable[[float], Run], start: float, limit_ms: float, precision: float = 0.05, tries: int = 2
) -> tuple[float, list[Run]]:
    """Search the highest rate at which p99 stays within ``limit_ms`` and every request is answered.

    From ``start``, a good guess, the rate is raised while it is kept, or lowered until it is, in steps that grow from
    ``precision`` to a factor of two. The gap that is left is halved (on a logarithmic scale) until it is as narrow as
    ``precision``. A rate that is not kept is tried ``tries`` times, unless it is far too high: other work on the
    machine may have disturbed a run, and nothing makes one quicker than it is. A rate that LoadGen calls invalid for
    other reasons than the latency counts as measured: what it is invalid for is in its run.

    Returns:
        The highest rate that was seen to hold, 0 if none was, and all runs.

    """
    runs: list[Run] = []
    low = high = 0.0
    step = 1 + precision

    def halvings() -> int:
        gap = high / low if low and high else step
        return max(0, math.ceil(math.log2(math.log(gap) / math.log(1 + precision)) - ROUNDING))

    def holds(rate: float) -> bool:
        for _ in range(tries):
            shown.total = len(runs) + (0 if low and high else 1) + halvings()
            runs.append(measure(rate))
            shown.update()
            if runs[-1].keeps(limit_ms) or runs[-1].samples_per_s < OVERLOADED * rate:
                break
        return runs[-1].keeps(limit_ms)

    rate = start
    with bar(0, "searching the highest rate") as shown:
        for _ in range(STEPS):
            low, high = (rate, high) if holds(rate) else (low, rate)
            if not (low and high):
                rate, step = low * step or high / step, min(step**2, 2.0)
            elif halvings():
                rate = (low * high) ** 0.5
            else:
                break
    return low, runs


STEPS = 24
"""Rates that are tried, each up to ``tries`` times, before the search ends with the highest that held so far.

Soon, each is twice the one before, or half of it: the guess may be wrong by orders of magnitude. The more it is, the
fewer are left to narrow the gap, and the search may end wider than ``precision``.
"""

OVERLOADED = 0.8
"""Of the requests of a second, so many are answered at least where a rate may yet be kept."""

ROUNDING = 1e-6
"""Of a gap that is as narrow as it was meant to be."""
