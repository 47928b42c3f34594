"""cuDNN's graph API as a backend: one fused operation a layer, in FP16, INT8 or FP8, all captured in a CUDA graph.

``export`` makes the network a program (program.py), gives it numbers (arithmetic.py, calibration.py), lets cuDNN
compute each convolution in several ways (pixels.py) with every plan it has (plans.py), and keeps the fastest.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import safetensors
import torch

from inference_lib.backends.cudnn.arithmetic import LARGEST, Network, network_of
from inference_lib.backends.cudnn.calibration import calibrated
from inference_lib.backends.cudnn.choice import fastest_types
from inference_lib.backends.cudnn.execution import Executable, facts_of, save
from inference_lib.backends.cudnn.kernels import SOURCE
from inference_lib.backends.cudnn.program import PICTURES, program_of
from inference_lib.backends.cudnn.search import Search
from inference_lib.backends.shared import cuda
from inference_lib.backends.shared.buffers import CudaFunctionRunner
from inference_lib.backends.shared.cuda import NO_GPU, float32_products, gpu_works
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.seam import Artifact, Availability, Support, Workload, precision_of
from inference_lib.support.hashes import sha256_of

MODEL_FILE = "model.safetensors"
PACKAGE = "nvidia-cudnn-frontend"


class Cudnn:
    """A chosen plan for each convolution and a kernel for what is between them, captured in a CUDA graph."""

    name = "cudnn"
    title = "cuDNN (graph API)"
    times_kernels = True

    def __init__(self) -> None:
        self._shared: Search | None = None

    def availability(self, device: str) -> Availability:
        """Usable where cuDNN's front end is installed and, if it is to run on a GPU, one works."""
        try:
            import cudnn
        except ImportError as error:
            return Availability(usable=False, reason=f"{error.name} is not installed", remedy=f"pip install {PACKAGE}")
        if device == "cuda" and not gpu_works():
            return NO_GPU
        return Availability(usable=True, version=cudnn.backend_version_string())

    def supports(self, workload: Workload) -> Support:
        """FP16, INT8 and FP8 on a GPU."""
        if not workload.on_gpu:
            return Support(ok=False, reason="cuDNN computes on NVIDIA GPUs only")
        if workload.precision.dtype not in (torch.float16, *LARGEST):
            return Support(ok=False, reason="the course measures cuDNN's graphs in FP16, INT8 and FP8 alone")
        if workload.precision.dtype == torch.float8_e4m3fn and gpu_works() and not cuda.multiplies_fp8():
            return Support(ok=False, reason="this GPU does not multiply in FP8")
        return Support(ok=True)

    def artifact_key(self, workload: Workload) -> str:
        """One file for each batch size and precision: its plans were chosen for them."""
        return f"cudnn/{workload.model}-{workload.precision.storage}-batch{workload.batch_size}"

    def versions(self) -> dict[str, str]:
        """Return the versions of what compiles, and the GPU that it compiles for."""
        import cudnn

        return {
            "torch": torch.__version__,
            PACKAGE: cudnn.__version__,
            "cudnn": cudnn.backend_version_string(),
            "gpu": cuda.gpu_identity(),
            "kernels": sha256_of([SOURCE.read_bytes()])[:12],
        }

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Let the exports in the block, all for one GPU, share the processes that compile and what they found out."""
        with Search() as self._shared:
            try:
                yield
            finally:
                self._shared = None

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write the network with the fastest plan of each convolution."""
        learnt = (workload.model.identity, workload.precision.name, workload.calibration.identity(workload.model))
        with nullcontext(self._shared) if self._shared else Search() as search:
            search.compilers.seconds.clear()
            network = search.network(learnt, lambda: network_for(model, workload))
            network, timed = fastest_types(network, workload.batch_size, search)
        host = torch.from_numpy(np.empty(0, workload.host_dtype)).dtype
        path, seconds = directory / MODEL_FILE, dict(search.compilers.seconds)
        save(path, network, workload.batch_size, host, timed, cuda.gpu_architecture(), seconds)

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the types of the stored weights."""
        with safetensors.safe_open(artifact.directory / MODEL_FILE, "pt") as content:
            names = [name for name in content.keys() if name.endswith(".weight")]  # noqa: SIM118
            return precision_of(content.get_slice(name).get_dtype() for name in names)

    def eight_bits_percent(self, artifact: Artifact) -> float:
        """Read which part of the multiply-adds the artifact does with factors of eight bits."""
        return 100 * facts_of(artifact.directory / MODEL_FILE)["eight_bits"]

    def load(self, artifact: Artifact) -> GraphedRunner:
        """Return the replayer of the network's launches."""
        workload = artifact.workload
        with torch.cuda.device(workload.device.torch):
            call = Executable(artifact.directory / MODEL_FILE, workload.device.torch)
        return GraphedRunner(CudaFunctionRunner(workload, call))


def network_for(model: torch.nn.Module, workload: Workload) -> Network:
    """Return ``model`` with the numbers of the workload's precision, its scales from the calibration's pictures.

    In FP8 the pictures stay in FP16, and what the first convolution makes of them: an even background is off by up to
    6 % in 3 bits of mantissa, everywhere by the same, and nothing averages that out.
    """
    program, dtype = program_of(model, workload.model.input_shape), workload.torch_dtype
    if not workload.precision.calibrated:
        return network_of(program, dtype, {})
    device = workload.device.torch
    batches = [torch.from_numpy(batch).to(device) for batch in workload.calibration.batches(workload.model)]
    even = [PICTURES, *(first.name for first in program.readers(PICTURES))]
    with float32_products("fp32"):
        return calibrated(program, dtype, batches, frozenset(even if dtype.is_floating_point else ()))
