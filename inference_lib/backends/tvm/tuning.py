"""Search for schedules with TVM's MetaSchedule, once, and keep those that beat the rules: exports use them.

    python -m inference_lib.backends.tvm.tuning vanilla_cnn cpu --trials 320

Each loop program gets candidates that are compiled and timed here, in processes of their own, so nothing else should
run meanwhile. It needs cloudpickle and xgboost (``pip install cloudpickle xgboost-cpu``), which learns from the
measured candidates which to try next, and apache-tvm-ffi 0.1.14.post0: later ones crash.
"""

import argparse
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from inference_lib.backends.tvm.backend import import_model, import_tensor_programs, lower, schedule, target_of
from inference_lib.backends.tvm.machine import (
    SCHEDULES,
    cpu_level,
    cuda_toolkit,
    host_target,
    schedules_name,
    use_all_cores,
)
from inference_lib.seam import DEVICE_KINDS, MODELS, Workload
from inference_lib.support.errors import CourseError

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
    """Tune the convolutions and products of ``model``, and add to ``directory`` what is quicker than by the rules.

    ``trials`` is the number of candidates that are timed, all loop programs together. Returns the folder, see
    ``inference_lib.backends.tvm.machine.tuned_schedules``.
    """
    from tvm.s_tir import meta_schedule
    from tvm.s_tir.meta_schedule.runner import LocalRunner

    use_all_cores()
    import_tensor_programs()
    workload = Workload(model, batch_size, precision, device)
    module = import_model(workload.model.load(), workload)
    target = tuning_target(device)
    lowered = lower(module, target)
    worth = WORTH_TUNING[device]
    programs = [v.name_hint for v in lowered.get_global_vars() if any(name in v.name_hint for name in worth)]
    builder, runner = candidate_builder(), LocalRunner()  # its process imports TVM once
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
            builder=builder,
            runner=runner,
            num_trials_per_iter=min(ROUND, max(1, trials // len(programs))),
            op_names=list(worth),
            seed=0,
        )
        candidates = [(name, normalized(lowered[name])) for name in programs]
        keep_better(found, candidates, target, builder, runner, folder)
    return folder


def normalized(program: Any) -> Any:
    """Return a loop program as the database stores it: a module of its own."""
    import tvm

    return tvm.IRModule({"main": program.with_attr({"global_symbol": "main", "tirx.noalias": True})})


def keep_better(
    found: Any, programs: Iterable[tuple[str, Any]], target: Any, builder: Any, runner: Any, folder: Path
) -> None:
    """Write those schedules of ``found`` to ``folder`` that are quicker than the course's rules, timed again in turn.

    ``programs`` are names and modules, see ``normalized``. A search that is cut short may find nothing better.
    """
    from tvm.s_tir.meta_schedule.database import JSONDatabase, TuningRecord

    kept = JSONDatabase(work_dir=str(folder))
    for name, program in programs:
        record = found.query_tuning_record(program, target, name)
        if record is None:
            continue
        versions = (schedule(program, target), found.query_ir_module(program, target, name))
        try:
            by_rule, searched = (microseconds(each, record.args_info, target, builder, runner) for each in versions)
        except CourseError as error:
            print(f"{name}: left to the rules; {error}")
            continue
        better = searched < by_rule
        print(f"{name}: {by_rule:.1f} us by the rules, {searched:.1f} us by the search{', kept' if better else ''}")
        if better:
            workload = kept.commit_workload(program)
            kept.commit_tuning_record(TuningRecord(record.trace, workload, [searched * 1e-6], target, record.args_info))


def microseconds(program: Any, arguments: Any, target: Any, builder: Any, runner: Any) -> float:
    """Return the mean time of a scheduled loop program, measured as the search measures its candidates.

    Raises:
        CourseError: it cannot be compiled or run.

    """
    from tvm.s_tir.meta_schedule.builder import BuilderInput
    from tvm.s_tir.meta_schedule.runner import RunnerInput

    built = builder.build([BuilderInput(program, target)])[0]
    if built.error_msg is None:
        device = "cpu" if target.kind.name == "llvm" else target.kind.name
        result = runner.run([RunnerInput(built.artifact_path, device, arguments)])[0].result()
        if result.error_msg is None:
            return fmean(float(seconds) for seconds in result.run_secs) * 1e6
    raise CourseError(f"a scheduled program does not run: {built.error_msg or result.error_msg}")


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
                max_workers=len(os.sched_getaffinity(0)),
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
    """Return the target to tune for: this GPU, or any CPU of this one's level, so that the schedules suit others."""
    import tvm

    if device == "cuda":
        if toolkit := cuda_toolkit():
            os.environ["CUDA_PATH"] = str(toolkit)
        return target_of("cuda")
    cpu = {"mcpu": level} if (level := cpu_level()) else dict(host_target().attrs)
    return tvm.target.Target({"kind": "llvm", "num-cores": os.cpu_count() or 1} | cpu)


def main() -> None:
    """Tune from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=tuple(MODELS))
    parser.add_argument("device", choices=DEVICE_KINDS)
    parser.add_argument("--trials", type=int, default=320, help="candidates to time, all loop programs together")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--directory", type=Path, default=SCHEDULES)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    folder = tune(**vars(options))
    print(f"schedules of {options.model} are in {folder}")


if __name__ == "__main__":  # the candidates are compiled in processes that import this module again
    main()
