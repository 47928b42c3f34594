"""The timer against other clocks, on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inference_lib.backends import Workload, build, get_backend
from inference_lib.measure import device, timing

pytestmark = pytest.mark.gpu

RULE = timing.StoppingRule(1.0, relative_width=0.002)


LARGER_THAN_L2 = 256 * 2**20
"""Bytes that triton.testing.do_bench overwrites between two runs, so that no run finds its data in the L2 cache."""


@pytest.mark.parametrize("model", ["vanilla_cnn", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_compute_agrees_with_do_bench_on_a_captured_graph(tmp_path: Path, model: str, batch_size: int) -> None:
    from triton.testing import do_bench

    backend, workload = get_backend("pytorch-cudagraph"), Workload(model, batch_size, "fp16", "cuda")
    with backend.load(build(backend, workload, tmp_path)) as runner:
        runner.upload(np.zeros(workload.input_shape, workload.host_dtype))
        scratch = torch.empty(LARGER_THAN_L2, dtype=torch.uint8, device="cuda")

        def flush() -> None:
            with torch.cuda.stream(runner.stream):
                scratch.zero_()

        ours = np.median(timing.time_compute(runner, RULE, before_each=flush).milliseconds)
        with torch.cuda.stream(runner.stream):
            theirs = do_bench(runner.compute, warmup=100, rep=500, return_mode="median")
    print(f"{model} batch {batch_size}: {ours:.4f} ms, do_bench {theirs:.4f} ms, ratio {ours / theirs:.4f}")
    assert ours == pytest.approx(theirs, rel=0.02)


def test_the_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    backend, workload = get_backend("pytorch-cudagraph"), Workload("resnet18", 64, "fp16", "cuda")
    inputs = [np.zeros(workload.input_shape, workload.host_dtype)] * 2
    with backend.load(build(backend, workload, tmp_path)) as runner:
        timing.warm_up(lambda: runner.infer(inputs[0]))
        parts = timing.time_parts(runner, inputs, RULE)
        whole = np.median(timing.time_end_to_end(runner, inputs, RULE).milliseconds)
    total = sum(np.median(p.milliseconds) for p in (parts.upload, parts.compute, parts.download))
    assert total == pytest.approx(whole, rel=0.15)


def test_nvml_sees_the_load_and_the_memory(tmp_path: Path) -> None:
    backend, workload = get_backend("pytorch-cudagraph"), Workload("resnet18", 64, "fp16", "cuda")
    before = device.memory_used_mib()
    batch = np.zeros(workload.input_shape, workload.host_dtype)
    with backend.load(build(backend, workload, tmp_path)) as runner:

        def step() -> int:
            runner.infer(batch)
            return len(batch)

        load = device.sample_load(step, 1.0)
        assert device.memory_used_mib() > before
    assert load.busy_percent > 20
    assert load.power_w > 50
    assert load.energy_mj_per_image > 0
