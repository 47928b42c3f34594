"""What this machine is to TVM: its processor, cores and CUDA toolkit, and schedules that were tuned for its kind."""

import os
import platform
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch

from inference_lib.backends.shared.cuda import gpu_architecture

SCHEDULES = Path(__file__).with_name("schedules")
"""Tuned schedules that come with the course, a folder per target; see tuning.py."""

CPU_LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"},
}
"""What each level of x86-64 adds, highest first, by LLVM's names (https://gitlab.com/x86-psABIs/x86-64-ABI)."""


def host_target() -> Any:
    """Return the TVM target for this machine's CPU."""
    import tvm
    from tvm.target.codegen import llvm_get_system_cpu

    return tvm.target.Target({"kind": "llvm", "mcpu": llvm_get_system_cpu()})


def use_all_cores() -> None:
    """Give TVM as many threads as PyTorch has, and let the system place them; call this before it computes anything.

    On x86, TVM takes half of the processors, in the belief that each core shows two. It also binds the thread that
    calls it to a part of them, and every process that is started later inherits that. Variables that are set already
    stay.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def tuned_schedules(device: str, root: Path = SCHEDULES) -> Path | None:
    """Return the folder with schedules tuned for this kind of ``device``, or None if there is none."""
    folder = root / schedules_name(device)
    return folder if (folder / "database_tuning_record.json").exists() else None


def schedules_name(device: str) -> str:
    """Return what the folder of schedules for ``device`` is called: schedules fit a family of processors."""
    return gpu_architecture() if device == "cuda" else cpu_level() or platform.machine()


def cpu_level() -> str | None:
    """Return the highest level of x86-64 whose instructions this CPU has, None for less and for other processors."""
    from tvm.target.codegen import llvm_get_cpu_features

    mine = {str(feature) for feature in llvm_get_cpu_features(host_target())}
    return next((level for level, instructions in CPU_LEVELS.items() if instructions <= mine), None)


@cache
def cuda_toolkit() -> Path | None:
    """Return the folder of the CUDA toolkit, whose headers TVM compiles with; None if it is not found."""
    nvcc = shutil.which("nvcc")
    above_nvcc = Path(nvcc).resolve().parents[1] if nvcc else None
    candidates = [os.environ.get("CUDA_PATH"), above_nvcc, "/usr/local/cuda"]
    includes = ("include", f"targets/{platform.machine()}-linux/include")
    for root in (Path(candidate) for candidate in candidates if candidate):
        if any((root / include / "cuda_runtime.h").exists() for include in includes):
            return root
    return None
