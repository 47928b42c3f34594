"""What this machine is: the hardware, the driver and the versions that a measurement belongs to."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import pynvml
import torch
from pydantic import BaseModel

from inference_lib.support import paths

PACKAGES = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "triton",
    "nvidia-cudnn-cu13",
    "openvino",
    "apache-tvm",
    "tensorrt",
    "torch-tensorrt",
    "tensorrt-rtx-cu13",
)


class Machine(BaseModel):
    """The hardware and software a record was measured on."""

    gpu: str | None = None
    gpu_memory_mib: float | None = None
    driver: str | None = None
    cpu: str
    cores: int
    """Processors that this process may run on."""
    threads: int
    """Threads that PyTorch computes with; ``OMP_NUM_THREADS`` changes them."""
    cpu_quota: float | None = None
    """Processors' worth of time that a container may use, if it is limited."""
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    commit: str | None = None

    def name(self, device: str) -> str:
        """Return what a reader calls this machine when ``device`` does the work."""
        if device == "cuda" and self.gpu:
            return self.gpu
        return f"{self.cpu} ({self.cores} cores)"


@cache
def this_machine(gpu_index: int = 0) -> Machine:
    """Describe the machine this runs on, with the GPU called ``cuda:gpu_index``. Host and user names are left out."""
    gpu, memory, driver = _gpu(gpu_index)
    return Machine(
        gpu=gpu,
        gpu_memory_mib=memory,
        driver=driver,
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        cpu_quota=_cpu_quota(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages=_versions(),
        commit=_commit(),
    )


def _gpu(index: int) -> tuple[str | None, float | None, str | None]:
    """Return the GPU's name and memory as CUDA tells them, and the driver's version, which only NVML knows."""
    if not torch.cuda.is_available():
        return None, None, None
    found = torch.cuda.get_device_properties(index)
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        driver = None
    return found.name, found.total_memory / 2**20, driver


def _cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Return the limit of this process's control group in processors (Linux, version 2), None where there is none."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _cpu_name() -> str:
    """Return the processor's name; Linux keeps it in /proc/cpuinfo, elsewhere the architecture must do."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return re.sub(r"\s+", " ", names[0]).strip() if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _commit() -> str | None:
    command = ["git", "-C", str(paths.ROOT), "rev-parse", "--short=12", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None if result.returncode == 0 else None
