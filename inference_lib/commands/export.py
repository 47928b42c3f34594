"""Export one model with one framework."""

import argparse
import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.seam import Artifact, Backend, Workload


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("backend", metavar="BACKEND")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=common.count, default=1)
    parser.add_argument("--output", type=common.folder, default=paths.ARTIFACTS)
    parser.add_argument("--triton", type=common.folder, metavar="FOLDER", help="write a repository for Triton, too")
    parser.add_argument("--max-batch", type=common.count, default=32, help="of Triton's batches")
    parser.add_argument("--max-wait-ms", type=common.not_negative, default=2.0, help="of Triton, to fill a batch")
    common.model_options(parser, pictures=False)
    common.device(parser)


def run(options: argparse.Namespace) -> None:
    """Export, and print where the artifact is, how large it is and how long it took."""
    from inference_lib.backends import get_backend
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.seam import Workload

    (model,) = common.find_models(options, [options.model])
    workload = Workload(model, options.batch_size, options.precision, resolve_device(options.device))
    artifact = exported(get_backend(options.backend), workload, options.output)
    seconds = artifact.manifest.get("build_seconds")
    took = "exported beside others before" if seconds is None else f"{seconds:.1f} s"
    print(f"{artifact.directory}  {artifact.size_bytes / 2**20:.1f} MiB, {took}")
    if options.triton:
        from inference_lib.serve.triton import write_repository

        print(write_repository(artifact, options.triton, options.max_batch, options.max_wait_ms / 1e3))


def exported(backend: "Backend", workload: "Workload", root: Path) -> "Artifact":
    """Return the artifact of ``workload``, exported now unless it was before; CourseError says why it cannot be."""
    from inference_lib.measure.plan import Rival, why_not
    from inference_lib.seam import build
    from inference_lib.support.failures import told

    if found := why_not(Rival(backend.name, workload)):
        raise CourseError(f"{backend.title} cannot export {workload}: {found[1]}")
    try:
        with redirect_stderr(io.StringIO()):  # what an exporter prints beside what it raises
            return build(backend, workload, root)
    except (CourseError, OSError):
        raise
    except Exception as error:  # whatever a framework raises
        raise CourseError(f"{backend.title} cannot export {workload}: {told(error)}") from error
