"""The servers as a reader starts them: a replica is killed, the server is asked to end, and everybody is answered."""

import fcntl
import gc
import http.server
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from serving import PICTURE
from waits import Answers, wait_until

from inference_lib.cli import main, parser
from inference_lib.commands import serve as command
from inference_lib.records.store import RecordStore
from inference_lib.seam import Workload
from inference_lib.serve import replica, server_process
from inference_lib.serve.classifier import HALF_STEPS, DeviceClassifier, Loaded, out_of_the_collectors_way, sizes_up_to
from inference_lib.serve.client import Client, Reply
from inference_lib.serve.server_process import answers, free_port, running_server
from inference_lib.serve.settings import Settings
from inference_lib.serve.soak import growth_percent, soak
from inference_lib.support.errors import CourseError
from inference_lib.zoo.fashion_mnist import load_fashion_mnist

MODEL = ["--backend", "onnxruntime", "--model", "vanilla_cnn", "--device", "cpu"]
SLOW_MS = 1500
"""A lone request waits so long for company: long enough for a signal to find it under way."""


@pytest.fixture(params=["local", "litserve", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"local": "uvicorn"}.get(request.param, request.param))
    return request.param


def kill_a_worker(server: psutil.Process, url: str, client: Client) -> None:
    """Kill the model's process while requests come; nobody waits for it, and another one takes its place."""
    worker = max(server.children(), key=lambda child: "spawn_main" in " ".join(child.cmdline()))
    replies, sent, deadline = Answers[Reply](), 0, time.monotonic() + 60
    client.submit(PICTURE, replies)
    time.sleep(SLOW_MS / 2e3)  # it has arrived, and waits as long again
    os.kill(worker.pid, signal.SIGKILL)
    assert replies.wait(1)[0].status == 503  # it had been taken
    while time.monotonic() < deadline and not (sent and replies.came[-1].status == 200 and answers(f"{url}/ready")):
        client.submit(PICTURE, replies)
        sent += 1
        replies.wait(sent + 1)
    assert replies.came[-1].status == 200
    assert {reply.status for reply in replies.came} <= {200, 503, 504}
    assert worker.pid not in {child.pid for child in server.children()}


def test_a_server_answers_and_at_its_end_those_under_way_are_answered(engine: str) -> None:
    port = free_port()
    url, replies = f"http://127.0.0.1:{port}", Answers[Reply]()
    options = [*MODEL, "--engine", engine, "--port", str(port), "--max-batch", "2", "--max-wait-ms", str(SLOW_MS)]
    with running_server(url, options, 120) as server, Client(url) as client:
        for _ in range(2):
            client.submit(PICTURE, replies)
        assert [reply.status for reply in replies.wait(2)] == [200, 200]
        if engine == "litserve":
            kill_a_worker(psutil.Process(server.pid), url, client)
        client.submit(PICTURE, replies)
        time.sleep(SLOW_MS / 2e3)
        server.send_signal(signal.SIGTERM)
        assert replies.wait(3)[2].status == 200, replies.came[2].error
        server.wait(40)
        assert server.returncode == 143
        assert not answers(f"{url}/health")


def test_ctrl_c_at_a_terminal_is_for_the_server_alone() -> None:
    pytest.importorskip("litserve")
    port = free_port()
    url, replies = f"http://127.0.0.1:{port}", Answers[Reply]()
    options = [*MODEL, "--port", str(port), "--max-batch", "2", "--max-wait-ms", str(SLOW_MS)]
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "inference_lib", "serve", "--engine", "litserve", *options],
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    with started as server, Client(url) as client:
        wait_until(lambda: answers(f"{url}/ready"))
        client.submit(PICTURE, replies)
        time.sleep(0.4)
        os.write(ours, b"\x03")  # the terminal makes a signal of it, for all in the foreground
        assert replies.wait(1)[0].status == 200
        assert server.wait(40) == 143
    said = os.read(ours, 100_000).decode()
    os.close(ours)
    assert said.splitlines()[1:] == ["^C"], said


class Worker:
    """A process of LitServe's, with the methods that a server uses."""

    pid, name, dead = 1, "inference-worker", False

    def is_alive(self) -> bool:
        return not self.dead

    def terminate(self) -> None:
        self.dead = True

    def join(self, timeout: float) -> None:
        pass


def test_a_worker_of_litserve_that_dies_is_replaced_but_not_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litserve")
    from inference_lib.serve import litserve_engine

    started: list[Worker] = []

    def start(*_: object) -> Worker:
        started.append(Worker())
        return started[-1]

    server = litserve_engine.Server(Settings("onnxruntime", Workload("vanilla_cnn", 1)))
    server._shutdown_event, server._transport = threading.Event(), SimpleNamespace(close=lambda **_: None)
    monkeypatch.setattr(server, "_inference_workers_config_for_api", lambda _: [["cpu"]])
    monkeypatch.setattr(server, "launch_single_inference_worker", start)
    server.inference_workers = [Worker()]
    manager = SimpleNamespace(shutdown=lambda: time.sleep(3 * litserve_engine.WATCH_S))  # it takes its time
    server._start_worker_monitoring(manager, {})
    server.inference_workers[0].terminate()
    wait_until(lambda: started, 10)
    assert len(started) == 1
    server._perform_graceful_shutdown(manager, {})
    assert [worker.dead for worker in started] == [True]


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(next(self.says))

    def log_message(self, *_: object) -> None:
        pass

    says = cycle((429, 503))


@pytest.fixture
def somebody() -> Iterator[str]:
    """Return the address of a server that is ready, whoever asks."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_was_there_before_is_not_taken_for_the_one_that_is_started(somebody: str) -> None:
    with pytest.raises(CourseError, match=r"somebody listens at .* already"), running_server(somebody, [], 5):
        pass


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(somebody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made once a process, by what the environment said then
    assert answers(somebody)


def test_over_http_a_refusal_is_told_from_a_crash(somebody: str) -> None:
    pytest.importorskip("mlperf_loadgen")
    from inference_lib.serve.loadgen import run_loadgen
    from inference_lib.serve.loops import open_loop

    with Client(somebody) as client:
        assert {sent.error for sent in open_loop(client, PICTURE, [0.0] * 4)} == {"HTTP 429", "HTTP 503"}
        errors = run_loadgen(client, [PICTURE], "server", 0.1, rate=200).errors
    assert set(errors) == {"HTTP 429", "HTTP 503"}


def test_what_a_server_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, child = tmp_path / "server", tmp_path / "child"
    script.write_text(f"#!/bin/sh\ntrap '' TERM\nsleep 60 &\necho $! > {child}.part && mv {child}.part {child}\nwait\n")
    script.chmod(0o755)
    monkeypatch.setattr(server_process.sys, "executable", str(script))
    monkeypatch.setattr(server_process, "END_S", 0.2)
    with (
        pytest.raises(CourseError, match="not ready within 1 s"),
        running_server(f"http://127.0.0.1:{free_port()}", [], 1),
    ):
        pass
    left = [each for each in psutil.process_iter() if each.pid == int(child.read_text())]
    psutil.wait_procs(left, 5)
    assert all(each.status() == psutil.STATUS_ZOMBIE for each in left if each.is_running())


HOLDER = """
import sys, time
from inference_lib.serve.server_process import running_server
with running_server(sys.argv[1], sys.argv[2:], 120) as server:
    print(server.pid, flush=True)
    time.sleep(120)
"""


def test_a_server_is_loaded_over_http_and_does_not_outlive_who_started_it(
    capsys: pytest.CaptureFixture, root: Path
) -> None:
    pytest.importorskip("mlperf_loadgen")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", HOLDER, url, *MODEL, "--engine", "local", "--port", str(port), "--max-batch", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        server = psutil.Process(int(holder.stdout.readline()))
        for scenario, more in (("single_stream", ()), ("server", ("--rate", "200")), ("offline", ())):
            ended = main(["load", "--url", url, "--scenario", scenario, "--seconds", "0.5", *more])
            (line,) = capsys.readouterr().out.splitlines()
            assert line.startswith(f"{scenario}: ")
            assert "without an answer" not in line
            assert ended == ("invalid" in line)
            assert not (ended and scenario != "server"), line  # which needs more requests than come in half a second
        holder.kill()  # as a kernel is that is restarted: nothing of it runs any more
    gone, _ = psutil.wait_procs([server], 20)
    assert gone
    assert not answers(f"{url}/ready")


def test_a_short_soak_answers_everybody_though_a_replica_is_killed(root: Path) -> None:
    settings = Settings("onnxruntime", Workload("vanilla_cnn", 1), replicas=2, max_batch=2, root=root)
    found = soak(settings, seconds=4, kill_every_s=1.2, limit_ms=1000.0, rate=40)
    assert found.lost == 0
    assert len(found.kills) >= 2
    assert found.replaced >= 1
    assert (found.load.errors == "").any()
    assert set(found.load.errors) <= {"", "FailedError", "TimedOutError"}  # on a busy machine, another process is slow


@pytest.mark.parametrize(
    ("replicas", "device", "hosts", "shares"),
    [
        (2, "cpu", 1, [[0, 1], [2, 3]]),
        (3, "cpu", 1, [[0], [1], [2]]),
        (5, "cpu", 1, [[0], [1], [2], [3], [0]]),
        (3, "cpu", 2, [[0, 1], [2, 3], [0, 1]]),
        (2, "cpu", 4, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (2, "cuda", 1, [[0, 1, 2, 3], [0, 1, 2, 3]]),
    ],
)
def test_replicas_on_a_cpu_share_its_cores(
    replicas: int, device: str, hosts: int, shares: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    settings = Settings("onnxruntime", Workload("vanilla_cnn", 1, device=device), replicas=replicas)
    assert [settings.cores(number, hosts) for number in range(replicas)] == shares


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], int]]:
    """Let nothing be loaded; return the cores that replicas are kept to and the numbers that they load."""
    found: list[tuple[list[int], int]] = []
    kept: list[list[int]] = []

    def load(settings: Settings, number: int = 0) -> AbstractContextManager[None]:
        found.append((kept[-1], number))
        return nullcontext()

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(Settings, "loaded", load)
    monkeypatch.setattr(replica, "keep_to", kept.append)
    monkeypatch.setattr(torch, "set_num_threads", bool)
    return found


def test_a_worker_of_litserve_knows_its_cores_and_its_gpu(placed: list, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litserve")
    from inference_lib.serve.litserve_engine import ClassifierAPI

    for number, device in enumerate(("cpu", "cpu", "cuda:0", "cuda:1")):
        monkeypatch.setenv("LITSERVE_WORKER_ID", str(number % 2))  # as LitServe does in each worker's process
        workload = Workload("vanilla_cnn", 1, device=device.partition(":")[0])
        ClassifierAPI(Settings("pytorch", workload, replicas=2)).setup(device)
    assert placed == [([0, 1], 0), ([2, 3], 1), ([0, 1, 2, 3], 0), ([0, 1, 2, 3], 1)]


@pytest.mark.parametrize(("hosts", "cores"), [(1, [1]), (2, [2, 3])])
def test_a_replica_of_ray_has_the_cores_of_its_rank_on_its_host(
    hosts: int, cores: list[int], placed: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from inference_lib.serve import ray_engine

    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}] * hosts
    nodes += [{"Alive": True, "Resources": {"memory": 1.0}}, {"Alive": False, "Resources": {"CPU": 4.0}}]
    monkeypatch.setattr(ray_engine.ray, "nodes", lambda: nodes)
    context = SimpleNamespace(rank=SimpleNamespace(rank=3, local_rank=1))
    monkeypatch.setattr(ray_engine.ray_serve, "get_replica_context", lambda: context)
    ray_engine.RayReplica(Settings("pytorch", Workload("vanilla_cnn", 1), replicas=4))
    assert placed == [(cores, 1)]  # Ray shows an actor one GPU


@pytest.mark.parametrize("backend", ["pytorch", "onnxruntime"])
def test_a_replica_computes_on_its_own_cores(root: Path, backend: str) -> None:
    settings = Settings(backend, Workload("vanilla_cnn", 1), replicas=1000, max_batch=1, root=root)
    with closing(settings.remote(1)) as replica:
        assert len(replica.submit(PICTURE[None])()) == 1
        tasks = [int(task.name) for task in Path(f"/proc/{replica.pid}/task").iterdir()]
        assert {frozenset(os.sched_getaffinity(task)) for task in tasks} == {frozenset(settings.cores(1))}
        threads = {"pytorch": 1, "onnxruntime": 2}[backend]  # its import may start one
        assert len(tasks) <= threads  # as many that compute as it has cores


def test_memory_growth_is_that_of_the_end_over_the_beginning() -> None:
    assert growth_percent([50, *[100] * 50, *[110] * 10]) == pytest.approx(10)
    assert growth_percent([]) == 0


def test_a_classifier_pads_to_the_next_size_and_gives_each_its_own_answer(root: Path) -> None:
    pictures, _ = load_fashion_mnist("test")
    with Loaded("onnxruntime", Workload("vanilla_cnn", 1), (1, 4), root) as classifier:
        together = classifier.submit(pictures[:3])()
        alone = [classifier.submit(each[None])()[0] for each in pictures[:3]]
        with pytest.raises(CourseError, match="5 pictures is larger than the largest runner, 4"):
            classifier.submit(pictures[:5])()
    assert together.shape == (3, 10)
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)


def test_while_a_model_is_served_the_heap_of_before_is_not_walked_through(root: Path) -> None:
    before = gc.get_freeze_count()
    with Loaded("onnxruntime", Workload("vanilla_cnn", 1), (1,), root):
        assert gc.get_freeze_count() > before + 10_000  # what the imports left
        assert len(gc.get_objects()) < 10_000
        with out_of_the_collectors_way():
            pass
        assert gc.get_freeze_count() > before + 10_000
    assert gc.get_freeze_count() == before


@pytest.mark.gpu
def test_pictures_prepared_on_the_gpu_get_the_logits_of_those_prepared_on_the_host(root: Path) -> None:
    pictures, _ = load_fashion_mnist("test")
    with Loaded("pytorch-cudagraph", Workload("resnet18", 1, "fp32", "cuda"), (1, 4), root) as classifier:
        assert isinstance(classifier, DeviceClassifier)
        waiting = [classifier.submit(pictures[:3]), classifier.submit(pictures[3:4])]  # two under way
        found = np.concatenate([logits() for logits in waiting])
    with Loaded("onnxruntime", Workload("resnet18", 1), (4,), root) as host:
        expected = host.submit(pictures[:4])()
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-3


def test_sizes_leave_little_to_be_padded() -> None:
    assert sizes_up_to(1) == (1,)
    assert sizes_up_to(8) == (1, 2, 4, 8)
    assert sizes_up_to(10) == (1, 2, 4, 8, 10)
    assert sizes_up_to(32) == (1, 2, 4, 8, 12, 16, 24, 32)
    sizes = sizes_up_to(1000)
    assert sizes[-1] == 1000
    padded = [next(size for size in sizes if size >= count) / count for count in range(1, 1001)]
    assert max(padded[HALF_STEPS:]) < 1.5
    assert max(padded) < 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--backend", "caffe"], "unknown backend"),
        (["serve", "--model", "vgg"], "unknown model 'vgg'"),
        (["load", "--replicas", "2"], "one replica works in this process; give --replicas with --engines or --soak"),
        (["load", "--url", "http://127.0.0.1:9"], "is not ready; start it with"),
        (["load", "--url", "http://127.0.0.1:9", "--soak"], "--soak kills replicas of a queue in this process"),
        (["load", "--engines", "local", "--soak"], "--soak kills replicas of a queue in this process"),
        (["load", "--url", "http://127.0.0.1:9", "--engines", "local"], "give one of the two"),
        (["serve", "--model", "brought.py:grey"], "unknown model 'brought.py:grey'; choose one of: vanilla_cnn"),
    ],
)
def test_a_mistake_at_the_prompt_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*arguments, *(["--device", "cpu"] if "--url" not in arguments else [])]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["local", "litserve"])
def test_a_port_that_is_taken_is_told_before_anything_is_loaded(
    engine: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "loaded", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr("inference_lib.serve.server_process.end_with_the_holder", lambda: None)
    monkeypatch.setattr("inference_lib.serve.server_process.at_a_terminal", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--engine", engine, "--device", "cpu", "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert said.endswith("; choose another --port or --host\n")


@pytest.mark.parametrize("name", ["serve", "load"])
def test_without_the_extra_it_is_said_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "inference_lib.serve.settings", None)
    assert main([name, "--device", "cpu"]) == 1
    assert "run `pip install -c constraints.txt -e .[serve]`" in capsys.readouterr().err


def test_the_options_of_a_server_are_its_settings() -> None:
    given = ["serve", "--device", "cpu", "--max-batch", "12", "--max-wait-ms", "3", "--max-queue", "7"]
    given += ["--port", "9000"]
    settings = command.settings_of(parser(given).parse_args(given), 3)
    assert (settings.sizes, settings.max_wait_s, settings.limits.under_way) == ((1, 2, 4, 8, 12), 0.003, 7)
    assert (settings.replicas, settings.host, settings.port) == (3, "127.0.0.1", 9000)


def test_a_load_in_this_process_is_predicted_measured_and_kept(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("mlperf_loadgen")
    knobs = ["--max-batch", "2", "--max-wait-ms", "0", "--seconds", "0.2", "--loads", "0.3", "--p99-ms", "400"]
    assert main(["load", *MODEL, *knobs, "--records", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for part in (
        "the queue adds",
        "simulated requests/s with p99 within 400 ms, by --max-batch: 1: ",
        "server: ",
        "offline: ",
    ):
        assert part in said
    figures = said[said.index("offline: ") :].splitlines()[1:]
    assert len(figures) == 5
    assert not any("not measured" in line for line in figures)
    (record,) = RecordStore(tmp_path / "queue-1").read()
    assert (record.profile, record.batch_size, record.status) == ("load", 2, "ok")
    serving = record.serving
    assert serving.arrival_rate > 0
    assert serving.goodput_per_s == (None if "it is no goodput" in said else serving.arrival_rate)
    assert set(serving.batches) <= {1, 2}
    assert serving.latency["p99"].low_ms <= serving.latency["p99"].ms <= serving.latency["p99"].high_ms
