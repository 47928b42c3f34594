"""Put a queue or a server under load with MLPerf LoadGen, and find the rate that it carries."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_lib.commands import options as common
from inference_lib.commands.serve import ENGINES, model_options, settings_of
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.seam import Runner
    from inference_lib.serve.loadgen import Run
    from inference_lib.serve.settings import Settings
    from inference_lib.serve.trials import LoadTest

RUNS = 3
"""Of the load that is kept: from three on, there are intervals."""

SCENARIOS = ("single_stream", "multi_stream", "server", "offline")
"""LoadGen's, see ``serve/loadgen.py``, which takes long to import."""

PICTURES = 1024
"""Test pictures that are sent."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    model_options(parser)
    parser.add_argument("--url", help="of a server; without it, the model runs behind a queue in this process")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="start these servers, one after the other")
    parser.add_argument("--port", type=common.port, default=8000, help="of the servers that are started")
    parser.add_argument("--scenario", choices=SCENARIOS, default="server")
    parser.add_argument(
        "--rate", type=common.positive, help="requests a second; without it, the highest rate is searched"
    )
    parser.add_argument("--p99-ms", type=common.positive, help="the limit: 10 in this process, 25 over HTTP")
    parser.add_argument("--seconds", type=common.positive, default=10.0, help="least length of a run")
    parser.add_argument(
        "--loads", type=common.positive, nargs="+", default=[0.3, 0.5, 0.7, 0.8, 0.9], help="parts of the capacity"
    )
    parser.add_argument("--records", type=common.folder, help="a folder of its own for the load at the highest rate")
    parser.add_argument("--soak", action="store_true", help="one long load, a replica killed now and then")
    parser.add_argument(
        "--kill-every", type=common.positive, default=60.0, metavar="S", help="seconds between two kills"
    )


def run(options: argparse.Namespace) -> int | None:
    """Measure, and print what was found; 1 where a request was lost, or a run that was asked for does not count."""
    from inference_lib.seam import FASHION_MNIST

    with common.serve_extra():
        import mlperf_loadgen  # noqa: F401 (what measures; the model takes longer)

        settings = settings_of(options)
    FASHION_MNIST.ensure()
    if options.url:
        return _over_http(options, options.url)
    if options.engines:
        return max([_engine(options, engine) for engine in options.engines])
    return _soak(options, settings) if options.soak else _in_process(options, settings)


def _pictures() -> list[Any]:
    from inference_lib.zoo.fashion_mnist import split_of

    return list(split_of("test")[0][:PICTURES])


def _in_process(options: argparse.Namespace, settings: "Settings") -> int:
    """Print what the classifier, the queue before it and the simulator do; or one run, where a rate is given."""
    from inference_lib.serve.service import measure_service
    from inference_lib.serve.simulator import Knobs
    from inference_lib.serve.trials import LoadTest

    if settings.replicas > 1:
        raise CourseError("one replica works in this process; give --replicas with --engines or --soak")
    loaded = settings.loaded()
    knobs = Knobs(settings.max_batch, settings.max_wait_s, settings.limits.under_way)
    with loaded as classifier:
        service = measure_service(classifier)
        test = LoadTest(classifier, service, knobs, _pictures(), options.seconds, options.p99_ms or 10.0)
        if options.rate or options.scenario != "server":
            found = test.run(options.scenario, options.rate or service.capacity)
            print(_line(found))
            return 0 if found.valid else common.EXIT_ERROR
        print(f"{loaded.title}, {settings.workload.model} {settings.workload.precision} on {settings.workload.device}")
        _print_service(test)
        _print_trials(test, options.loads)
        rate = _print_rates(test, loaded.runners[settings.max_batch])
        if options.records and rate:
            print(_kept(test, settings, rate, options.records))
    return 0


def _kept(test: "LoadTest", settings: "Settings", rate: float, folder: Path) -> Path:
    """Run ``rate`` three times, and write what it did as a record; return the file."""
    from dataclasses import replace

    from inference_lib.measure.gpu import sample_load
    from inference_lib.measure.plan import Rival, empty_record
    from inference_lib.measure.profiles import get_profile
    from inference_lib.records.store import RecordStore
    from inference_lib.serve.trials import serving_of

    runs: list[Run] = []

    def once() -> int:
        runs.append(test.run("server", rate, seed=len(runs)))
        return sum(size * count for size, count in runs[-1].batches.items())

    asked = settings.workload
    # Two runs, the second is watched.
    gpu = sample_load(asked.device.index, once, test.seconds) if asked.on_gpu else None
    while len(runs) < RUNS:
        once()
    rival = Rival(settings.backend, replace(asked, batch_size=settings.max_batch))
    record = empty_record(rival, replace(get_profile("quick"), name="load"), "1", "ok")
    record.serving = serving_of("queue", test.knobs, runs, test.limit_ms, rate, gpu)
    return RecordStore(folder).write(record)


def _print_service(test: "LoadTest") -> None:
    """Print the times of batches, and what a queue adds."""
    from inference_lib.serve.trials import queue_overhead

    print("batch  alone ms  busy ms  images/s")
    for size in test.service.sizes:
        alone, busy = test.service.alone_s(size), test.service.occupied_s(size)
        print(f"{size:5}  {alone * 1e3:8.3f}  {busy * 1e3:7.3f}  {size / busy:8,.0f}")
    turns = queue_overhead(test.classifier)
    queue, thread = (1e3 * (turns.ms(name) - turns.ms("classifier")) for name in ("queue", "thread"))
    print(f"queue's overhead at batch 1, p50: {queue:.0f} us, and {thread:.0f} where a thread is woken", flush=True)


def _print_trials(test: "LoadTest", loads: list[float]) -> None:
    """Print a line for each part of the capacity: the law, the simulation, LoadGen."""
    from inference_lib.support import progress

    print("load   rate/s   law ms  simulated p50, p99 ms  measured p50, p99 ms   off %  mean batch  counts")
    for trial in test.predict_and_measure(loads):
        simulated, run = trial.simulated, trial.run
        progress.say(
            f"{trial.load:4.2f} {trial.rate:8,.0f} {trial.law_ms:8.2f}"
            f"  {simulated.quantile_ms(50):9.2f} {simulated.quantile_ms(99):10.2f}"
            f"  {run.latency_ms['p50']:9.2f} {run.latency_ms['p99']:10.2f} {trial.off_percent:+7.1f}"
            f" {run.mean_batch:11.1f}  {_counts(run)}"
        )


def _print_rates(test: "LoadTest", largest: "Runner") -> float:
    """Print the highest rate within the limit, simulated and searched, beside what no latency limits; return it."""
    from inference_lib.backends.shared.buffers import BufferedRunner
    from inference_lib.serve.trials import overlapped_rate

    limit = f"p99 within {test.limit_ms:g} ms"
    print(f"simulated: {test.simulated_rate():,.0f} requests/s with {limit}")
    rate, runs = test.highest_rate()
    offline = test.run("offline", test.service.capacity)
    print("\n".join(_line(run) for run in (*runs, offline)))
    print(f"highest rate with {limit}: {rate:,.0f} requests/s")
    print(f"of the offline rate through the same queue: {100 * rate / offline.samples_per_s:.0f} %")
    if isinstance(largest, BufferedRunner):
        overlapped = overlapped_rate(largest, test.seconds / 3)
        print(f"of the overlapped throughput, {overlapped:,.0f} images/s: {100 * rate / overlapped:.0f} %")
    return rate


def _over_http(options: argparse.Namespace, url: str) -> int:
    """Print one run against a server, or the highest rate that it carries."""
    from inference_lib.serve.loadgen import highest_rate, run_loadgen
    from inference_lib.serve.server_process import answers
    from inference_lib.support import progress

    with common.serve_extra():
        from inference_lib.serve.client import Client
    limit_ms, pictures = options.p99_ms or 25.0, _pictures()
    if not answers(f"{url.rstrip('/')}/ready"):
        raise CourseError(f"{url} is not ready; start it with `python -m inference_lib serve`, and wait for GET /ready")
    with Client(url) as client:

        def measure(rate: float) -> "Run":
            found = run_loadgen(client, pictures, options.scenario, options.seconds, rate, limit_ms)
            progress.say(_line(found))
            return found

        if options.rate or options.scenario != "server":
            return 0 if measure(options.rate or 100.0).valid else common.EXIT_ERROR
        rate, _ = highest_rate(measure, 100.0, limit_ms)
    print(f"highest rate with p99 within {limit_ms:g} ms: {rate:,.0f} requests/s")
    return 0


def _engine(options: argparse.Namespace, engine: str) -> int:
    """Start a server with the options that were given, put it under load, and end it."""
    from inference_lib.serve.server_process import running_server

    of_the_model = ("backend", "model", "precision", "device")
    names = (*of_the_model, "replicas", "max_batch", "max_wait_ms", "max_queue", "timeout_s")
    given = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    url = f"http://127.0.0.1:{options.port}"
    with running_server(url, [*given, "--engine", engine, "--port", str(options.port)]):
        print(f"{engine}:", flush=True)
        return _over_http(options, url)


def _soak(options: argparse.Namespace, settings: "Settings") -> int:
    """Print what became of a long load; 1 where a request was lost."""
    from inference_lib.serve.soak import soak

    limit_ms = options.p99_ms or 100.0
    found = soak(settings, options.seconds, options.kill_every, limit_ms, options.rate, common.say)
    print(f"{found.seconds:g} s at {found.rate:,.0f} requests/s: {found.sent:,} sent, {found.answered:,} with logits")
    print(f"with a reason instead: {', '.join(f'{n} {kind}' for kind, n in found.errors.items()) or 'none'}")
    print(f"without an answer: {found.lost}")
    print(f"killed {found.kills}, replaced {found.replaced}, p99 of all {found.p99_ms:.1f} ms")
    print(f"seconds until p99 was within {limit_ms:g} ms again: {', '.join(f'{s:.1f}' for s in found.recovered_s)}")
    print(f"memory grew by {found.memory_growth_percent:.1f} %")
    return common.EXIT_ERROR if found.lost else 0


def _line(found: "Run") -> str:
    """Return a run in one line."""
    asked = f"{found.rate:,.0f}/s asked, " if found.rate else ""
    quantiles = ", ".join(f"{name} {ms:.2f}" for name, ms in found.latency_ms.items())
    return f"{found.scenario}: {asked}{found.samples_per_s:,.0f}/s, {quantiles} ms, {_counts(found)}"


def _counts(found: "Run") -> str:
    return "valid" if found.valid else f"invalid: {'; '.join(found.reasons)}"
