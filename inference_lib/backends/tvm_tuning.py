"""Search for schedules with TVM's MetaSchedule, once, and keep the best: exports use them on any such machine.

    python -m inference_lib.backends.tvm_tuning vanilla_cnn cpu --trials 320

Each loop program gets candidates that are compiled and timed here, in processes of their own, so nothing else should
run meanwhile. It needs cloudpickle and xgboost (``pip install cloudpickle xgboost-cpu``), which learns from the
measured candidates which to try next, and apache-tvm-ffi 0.1.14.post0: later ones crash.
"""

import argparse
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from inference_lib.backends.base import DEVICES, Workload
from inference_lib.backends.tvm import (
    SCHEDULES,
    cuda_toolkit,
    import_model,
    import_tensor_programs,
    lower,
    schedules_name,
    target_of,
)
from inference_lib.models import MODELS, load_pretrained

WORTH_TUNING = ("conv2d", "matmul")
"""Names of the loop programs that take the time; the rest is moving memory."""

ROUND = 32
"""Candidates that are compiled and timed before the cost model learns from them."""


def tune(model: str, device: str, trials: int, directory: Path, batch_size: int = 1, precision: str = "fp32") -> Path:
    """Tune the convolutions and products of ``model``, and add the best schedule of each to ``directory``.

    ``trials`` is the number of candidates that are timed, all loop programs together. Returns the folder, see
    ``inference_lib.backends.tvm.tuned_schedules``.
    """
    from tvm.s_tir import meta_schedule

    import_tensor_programs()
    module = import_model(load_pretrained(model), Workload(model, batch_size, precision, device))
    target = tuning_target(device)
    lowered = lower(module, target)
    programs = [v.name_hint for v in lowered.get_global_vars() if any(name in v.name_hint for name in WORTH_TUNING)]
    folder = directory / schedules_name(device)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = meta_schedule.relax_integration.tune_relax(
            lowered,
            params={},
            target=target,
            work_dir=scratch,
            max_trials_global=trials,
            max_trials_per_task=max(1, trials // len(programs)),
            # Each compiling process imports these, and would take longer than it is given.
            builder=meta_schedule.builder.LocalBuilder(initializer=import_tensor_programs),
            num_trials_per_iter=min(ROUND, max(1, trials // len(programs))),
            op_names=list(WORTH_TUNING),
            seed=0,
        )
        found.dump_pruned(meta_schedule.database.JSONDatabase(work_dir=str(folder)))
    return folder


def tuning_target(device: str) -> Any:
    """Return the target to tune for: this GPU, or a CPU with AVX2, so that the schedules suit others than this one."""
    import tvm

    if device == "cuda":
        if toolkit := cuda_toolkit():
            os.environ["CUDA_PATH"] = str(toolkit)
        return target_of("cuda")
    cpu = {"mcpu": "x86-64-v3"} if schedules_name("cpu") == "x86_64" else dict(target_of("cpu").attrs)
    return tvm.target.Target({"kind": "llvm", "num-cores": os.cpu_count() or 1} | cpu)


def main() -> None:
    """Tune from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=tuple(MODELS))
    parser.add_argument("device", choices=DEVICES)
    parser.add_argument("--trials", type=int, default=320, help="candidates to time, all loop programs together")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--directory", type=Path, default=SCHEDULES)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    folder = tune(
        options.model, options.device, options.trials, options.directory, options.batch_size, options.precision
    )
    print(f"schedules of {options.model} are in {folder}")


if __name__ == "__main__":  # the candidates are compiled in processes that import this module again
    main()
