"""The tests behind the command ``load``: each prints what it measures at once, and fills the figures it is run for."""

import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import psutil

from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.measure.gpu import sample_load
from inference_lib.measure.plan import Rival, empty_record
from inference_lib.measure.profiles import get_profile
from inference_lib.records.record import Load
from inference_lib.records.store import RecordStore
from inference_lib.serve.client import Client
from inference_lib.serve.loadgen import Run, highest_rate, run_loadgen
from inference_lib.serve.loops import closed_loop
from inference_lib.serve.server_process import answers, free_port, running_server
from inference_lib.serve.service import measure_service
from inference_lib.serve.settings import Settings
from inference_lib.serve.simulator import Knobs
from inference_lib.serve.soak import growth_percent, soak
from inference_lib.serve.trials import LoadTest, overlapped_rate, queue_overhead, serving_of, simulated_rate
from inference_lib.support.errors import CourseError
from inference_lib.support.progress import say
from inference_lib.zoo.fashion_mnist import split_of

CALLERS, GUESS_S, BEGIN, AMPLE = 32, 1.0, 0.75, 2.0
"""Who wait for their answers, all at once, and for how long: with a part of what they get through a search begins.
Where no rate is given, a run is planned for more: LoadGen counts one that takes longer, and none that is over early."""


@dataclass
class Figure:
    """A number that a test is run for, and the course's goal for it (``<= 15``), if there is one."""

    name: str
    unit: str
    goal: str = ""
    value: float | None = None
    parts: "tuple[Figure, Figure] | None" = None
    """Of a percentage: what it is of what."""

    def __str__(self) -> str:
        value = self.value
        if self.parts:
            part, whole = (figure.value for figure in self.parts)
            value = 100 * part / whole if whole and part is not None else None
        if value is None:
            return f"{self.name:64}{'not measured':>22}  {self.goal}".rstrip()
        verdict = ""
        if self.goal:
            sign, bound = self.goal.split()
            reached = value <= float(bound) if sign == "<=" else value >= float(bound)
            verdict = "reached" if reached else "missed"
        return f"{self.name:64}{f'{value:,.1f} {self.unit}':>22}  {self.goal:8}{verdict}".rstrip()


def one_run(options: Namespace) -> bool:
    """Whether one run is asked for, and no search: only the server scenario has a highest rate."""
    return bool(options.rate) or options.scenario != "server"


def in_process(options: Namespace, settings: Settings, figures: list[Figure]) -> bool:
    """Print what a classifier, the queue before it and the simulator do; or one run, and return whether it counts."""
    if settings.replicas > 1:
        raise CourseError("one replica works in this process; give --replicas with --engines or --soak")
    loaded = settings.loaded()
    knobs = Knobs(settings.max_batch, settings.max_wait_s, settings.limits.under_way)
    with loaded as classifier:
        service = measure_service(classifier)
        test = LoadTest(classifier, service, knobs, _pictures(), options.seconds, options.p99_ms)
        if one_run(options):
            return _told(test.run(options.scenario, options.rate or service.capacity)).valid
        added = Figure("what the queue adds to one picture, p50", "us", "<= 100")
        off = Figure(f"simulated p99 off the measured, worst of {len(options.loads)} loads", "%", "<= 15")
        carried = Figure(f"highest rate in this process, p99 within {options.p99_ms:g} ms", "requests/s")
        most = Figure("images without a queue, copies overlapped where they can be", "images/s", value=service.capacity)
        share = Figure("that rate of these images", "%", ">= 80", parts=(carried, most))
        figures += [added, off, carried, most, share]
        print(f"{loaded.title}, {settings.workload.model} {settings.workload.precision} on {settings.workload.device}")
        print("batch  alone ms  busy ms  images/s")
        for size in service.sizes:
            alone, busy = service.alone_s(size), service.occupied_s(size)
            print(f"{size:5}  {alone * 1e3:8.3f}  {busy * 1e3:7.3f}  {size / busy:8,.0f}", flush=True)
        turns = queue_overhead(classifier)
        added.value, thread = (1e3 * (turns.ms(name) - turns.ms("classifier")) for name in ("queue", "thread"))
        print(f"the queue adds {added.value:.0f} us to one picture, {thread:.0f} where a thread is woken", flush=True)
        runner = loaded.runners[settings.max_batch]
        if isinstance(runner, BufferedRunner):
            most.value = overlapped_rate(runner, options.seconds / 3)
        _print_trials(test, options.loads, off)
        quickest = min(service.alone_s(size) for size in service.sizes) * 1e3
        if quickest > options.p99_ms:
            carried.value = 0.0
            say(f"a picture that finds nobody before it takes {quickest:.1f} ms: no rate keeps {options.p99_ms:g} ms")
            return True
        simulated = _simulated_rate(test)
        best, gpu = list[Run](), None
        try:
            begin = simulated or service.capacity / 10
            _search(lambda rate: test.run("server", rate), begin, options.p99_ms, carried, best)
            if options.records and best:
                gpu = _repeat(test, settings, best)
        finally:
            _write(options, settings, "queue", best, gpu)
        _told(test.run("offline", service.capacity))
    return True


def _print_trials(test: LoadTest, loads: list[float], off: Figure) -> None:
    """Print a line for each part of the capacity: the law, the simulation, LoadGen."""
    say("load   rate/s   law ms  simulated p50, p99 ms  measured p50, p99 ms   off %  mean batch  counts")
    for trial in test.predict_and_measure(loads):
        simulated, run = trial.simulated, trial.run
        say(
            f"{trial.load:4.2f} {trial.rate:8,.0f} {trial.law_ms:8.2f}"
            f"  {simulated.quantile_ms(50):9.2f} {simulated.quantile_ms(99):10.2f}"
            f"  {run.latency_ms['p50']:9.2f} {run.latency_ms['p99']:10.2f} {trial.off_percent:+7.1f}"
            f" {run.mean_batch:11.1f}  {run.verdict}"
        )
        off.value = max(off.value or 0.0, abs(trial.off_percent))


def _simulated_rate(test: LoadTest) -> float:
    """Return the rate that the queue should carry; print what others would whose largest batch is smaller.

    A request may have to wait for a whole batch before its own is computed: where two of the largest do not fit into
    the limit, smaller ones carry more.
    """
    knobs = [replace(test.knobs, max_batch=size) for size in test.service.sizes]
    rates = {one.max_batch: simulated_rate(test.service, one, test.limit_ms, outside=test.outside) for one in knobs}
    said = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
    say(f"simulated requests/s with p99 within {test.limit_ms:g} ms, by --max-batch: {said}")
    return rates[test.knobs.max_batch]


def _repeat(test: LoadTest, settings: Settings, runs: list[Run]) -> Load | None:
    """Run the rate of ``runs`` until there are three; return what the GPU said meanwhile."""
    rate, gpu = runs[0].rate or 0.0, None

    def once() -> int:
        runs.append(_told(test.run("server", rate, seed=len(runs))))
        return sum(size * count for size, count in runs[-1].batches.items())

    if settings.workload.on_gpu:  # two runs, the second is watched
        gpu = sample_load(settings.workload.device.index, once, test.seconds)
    while len(runs) < 3:  # from three on, there are intervals
        once()
    return gpu


def _write(options: Namespace, settings: Settings, engine: str, runs: list[Run], gpu: Load | None = None) -> None:
    """Write the runs at the highest rate as a record, where there are any, and it is asked for."""
    if options.records and runs:
        rival = Rival(settings.backend, replace(settings.workload, batch_size=settings.max_batch))
        record = empty_record(rival, replace(get_profile("quick"), name="load"), "1", "ok")
        record.serving = serving_of(engine, settings, runs, options.p99_ms, gpu)
        if record.serving.goodput_per_s is None:
            kept = sum(run.keeps(options.p99_ms) for run in runs)
            say(f"p99 was within {options.p99_ms:g} ms in {kept} of {len(runs)} runs at that rate: it is no goodput")
        say(str(RecordStore(options.records / f"{engine}-{settings.replicas}").write(record)))


def engines(options: Namespace, settings: Settings, figures: list[Figure]) -> bool:
    """Start one server after the other and put it under load; return whether all worked: one does not end the rest."""
    names = ("backend", "model", "precision", "device", "max_batch", "max_wait_ms", "max_queue", "timeout_s")
    given = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    limit, first = f"p99 within {options.p99_ms:g} ms", options.replicas[0]
    carried = {
        (engine, replicas): Figure(f"{engine}, {replicas} at work: highest rate, {limit}", "requests/s")
        for engine, replicas in product(options.engines, options.replicas)
    }
    figures += carried.values()
    for (engine, replicas), figure in carried.items():
        if replicas != first:
            name, linear = f"{engine}: {replicas} at work over {first}", 100 * replicas / first
            figures.append(Figure(name, "%", f">= {0.9 * linear:g}", parts=(figure, carried[engine, first])))
    good = True
    for (engine, replicas), figure in carried.items():
        say(f"{engine}, {replicas} at work:")
        port = free_port()
        url, words = f"http://127.0.0.1:{port}", ["--engine", engine, "--replicas", str(replicas), "--port", str(port)]
        best: list[Run] = []
        try:
            with running_server(url, given + words) as server:
                good = over_http(options, url, figure, best, server.pid) and good
        except CourseError as error:
            say(f"error: {error}", sys.stderr)
            good = False
        finally:
            _write(options, replace(settings, replicas=replicas), engine, best)
    return good


def over_http(options: Namespace, url: str, carried: Figure, best: list[Run], pid: int | None = None) -> bool:
    """Print one run against a server, or search its highest rate, which ``carried`` and ``best`` get.

    What process ``pid`` and its children kept busy is told, too. Return whether the run that was asked for counts.
    """
    pictures = _pictures()
    if not answers(f"{url}/ready"):
        raise CourseError(f"{url} is not ready; start it with `python -m inference_lib serve`, and wait for GET /ready")
    with Client(url) as client:

        def run_at(rate: float) -> Run:
            before, start = _cpu_seconds(pid), time.perf_counter()
            found = run_loadgen(client, pictures, options.scenario, options.seconds, rate, options.p99_ms)
            seconds, spent = time.perf_counter() - start, _cpu_seconds(pid) - before
            found.busy = {name: used / seconds for name, used in spent.most_common() if used > 0.05 * seconds}
            if found.errors and not answers(f"{url}/ready"):  # a search would go on down to nothing
                raise CourseError(f"{url} does not answer any more; start it by hand and read what it says")
            return found

        answered = [sent for sent in closed_loop(client, pictures[0], CALLERS, GUESS_S) if not sent.error]
        guess = len(answered) / GUESS_S or 100.0  # and the connections are open
        if one_run(options):
            return _told(run_at(options.rate or AMPLE * guess)).valid
        _search(run_at, BEGIN * guess, options.p99_ms, carried, best)
    return True


def _cpu_seconds(pid: int | None) -> Counter[str]:
    """Return the CPU time of the load, and of a server's processes: one whose Python takes a core is the limit."""
    found = Counter[str]()
    with suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(), psutil.Process(pid), *psutil.Process(pid).children(True)] if pid else []:
            name = "worker" if "spawn_main" in " ".join(process.cmdline()) else process.name()
            found["the load" if process.pid == os.getpid() else f"{name} {process.pid}"] = sum(process.cpu_times()[:2])
    return found


def soaked(options: Namespace, settings: Settings, figures: list[Figure]) -> bool:
    """Print what became of a long load; return whether every request was answered."""
    limit, lost = options.p99_ms, Figure("requests without an answer", "", "<= 0")
    grown = Figure("growth of the memory", "%", "<= 2")
    well = Figure(f"longest time from a kill until p99 was within {limit:g} ms", "s", "<= 5")
    whole = Figure("the same, and nobody was refused any more", "s")
    figures += [lost, grown, well, whole]
    found = soak(settings, options.seconds, options.kill_every, limit, options.rate, lambda line: say(line, sys.stderr))
    lost.value, grown.value = found.lost, growth_percent(found.memory)
    well.value = max(found.recovered_s(limit, refusing=True), default=None)
    whole.value = max(found.recovered_s(limit), default=None)
    latency_ms, errors = (found.load.answered - found.load.due) * 1e3, found.load.errors
    sent, p99 = np.isfinite(found.load.sent).sum(), np.nanpercentile(latency_ms[errors == ""], 99)
    print(
        f"{found.lasted_s:.0f} s at {found.rate:,.0f} requests/s: {sent:,} sent, p99 {p99:.1f} ms of those with logits"
    )
    print(f"with a reason instead: {dict(Counter(errors[errors != ''])) or 'none'}")
    print(f"killed {len(found.kills)}, replaced {found.replaced}", flush=True)
    return not found.lost


def _pictures() -> list[np.ndarray]:
    return list(split_of("test")[0][:1024])


def _search(run_at: Callable[[float], Run], start: float, limit_ms: float, carried: Figure, best: list[Run]) -> None:
    """Search the highest rate, and print each run; ``carried`` has the highest so far, ``best`` its run."""

    def measure(rate: float) -> Run:
        found = _told(run_at(rate))
        carried.value = carried.value or 0.0
        if found.keeps(limit_ms) and rate > carried.value:
            carried.value, best[:] = rate, [found]
        return found

    highest_rate(measure, start, limit_ms)


def _told(run: Run) -> Run:
    """Print a run in one line."""
    asked = f"{run.rate:,.0f}/s asked, " if run.rate else ""
    quantiles = ", ".join(f"{name} {ms:.2f}" for name, ms in run.latency_ms.items())
    cores = "".join(f"; {name} {cores:.2f} cores" for name, cores in run.busy.items())
    say(
        f"{run.scenario}: {asked}{run.samples_per_s:,.0f}/s, {quantiles} ms, {run.mean_batch:.1f} in a batch, "
        f"{run.verdict}{cores}"
    )
    return run
