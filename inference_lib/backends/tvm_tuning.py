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

WORTH_TUNING = {"cpu": ("conv2d", "matmul"), "cuda": ("conv2d",)}
"""Names of the loop programs that take the time; the rest is moving memory. On a GPU, so is the product of one image
with a matrix: each weight is read once."""

ROUND = 32
"""Candidates that are compiled and timed before the cost model learns from them."""

COMPILE_SECONDS = 30
"""A candidate that takes longer to compile is given up."""

CANDIDATES_A_PROCESS = 200
"""A compiling process is replaced after so many, because TVM's leak memory."""


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
    worth = WORTH_TUNING[device]
    programs = [v.name_hint for v in lowered.get_global_vars() if any(name in v.name_hint for name in worth)]
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
            builder=candidate_builder(),
            num_trials_per_iter=min(ROUND, max(1, trials // len(programs))),
            op_names=list(worth),
            seed=0,
        )
        found.dump_pruned(meta_schedule.database.JSONDatabase(work_dir=str(folder)))
    return folder


def candidate_builder() -> Any:
    """Return a builder whose processes stay from one round to the next.

    TVM's own starts new ones for every round, and each imports PyTorch and TVM's programs for tensor units, which takes
    longer than compiling the round.
    """
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder
    from tvm.support.popen_pool import PopenPoolExecutor, StatusKind

    @derived_object
    class WarmBuilder(PyBuilder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.pool = PopenPoolExecutor(
                timeout=COMPILE_SECONDS,
                initializer=import_tensor_programs,
                maximum_process_uses=CANDIDATES_A_PROCESS,
            )

        def build(self, candidates: list[Any]) -> list[Any]:
            jobs = [(candidate.mod, candidate.target) for candidate in candidates]
            return [
                BuilderResult(done.value, None)
                if done.status == StatusKind.COMPLETE
                else BuilderResult(None, f"{done.status.name.lower()}: {done.value}")
                for done in self.pool.map_with_error_catching(lambda job: _compile(*job), jobs)
            ]

    return WarmBuilder()


def _compile(module: Any, target: Any) -> str:
    """Compile one candidate, in a process of the pool; return the path of the result."""
    from tvm.s_tir.meta_schedule.builder.local_builder import default_build, default_export

    return default_export(default_build(module, target, None))


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
