"""``export``: one model with one framework."""

import argparse
from pathlib import Path

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

HELP = "export one model with one framework"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("backend", metavar="BACKEND")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--output", type=Path, default=paths.ARTIFACTS)
    common.device(parser)


def run(options: argparse.Namespace) -> None:
    """Export, and print where the artifact is, how large it is and how long it took."""
    from inference_lib.backends import get_backend
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.seam import Workload, build
    from inference_lib.support.failures import keep, reason_of
    from inference_lib.support.files import shown

    device = resolve_device(options.device)
    workload = Workload(options.model, options.batch_size, options.precision, device)
    backend = get_backend(options.backend)
    available, support = backend.availability(device), backend.supports(workload)
    if not available.usable:
        raise CourseError(f"{backend.title} cannot be used here: {available.reason}; {available.remedy}")
    if not support.ok:
        raise CourseError(f"{backend.title} cannot export {workload}: {support.reason}")
    try:
        artifact = build(backend, workload, options.output)
    except (CourseError, OSError):
        raise
    except Exception as error:  # whatever a framework raises
        said = f"{backend.title} cannot export {workload}: {reason_of(error)}"
        raise CourseError(f"{said}; the whole text is in {shown(keep(error))}") from error
    seconds = artifact.manifest.get("build_seconds")
    took = "exported beside others before" if seconds is None else f"{seconds:.1f} s"
    print(f"{artifact.directory}  {artifact.size_bytes / 2**20:.1f} MiB, {took}")
