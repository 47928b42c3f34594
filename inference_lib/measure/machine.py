"""What this machine is: the hardware, the driver and the versions that a measurement belongs to."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import pynvml
from pydantic import BaseModel

from inference_lib import paths

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
def this_machine() -> Machine:
    """Describe the machine this runs on. Host names and user names are left out."""
    gpu, memory, driver = _gpu()
    return Machine(
        gpu=gpu,
        gpu_memory_mib=memory,
        driver=driver,
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages=_versions(),
        commit=_commit(),
    )


def _gpu() -> tuple[str | None, float | None, str | None]:
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return (
            pynvml.nvmlDeviceGetName(handle),
            pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**20,
            pynvml.nvmlSystemGetDriverVersion(),
        )
    except pynvml.NVMLError:
        return None, None, None


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
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Return the short commit of the course, None outside a checkout."""
    command = ["git", "-C", str(paths.ROOT), "rev-parse", "--short=12", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None if result.returncode == 0 else None
