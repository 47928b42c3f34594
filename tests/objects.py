"""What worker processes hold in tests: a fork server imports this module by its name."""

import os
import resource
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from inference_lib.backends.cudnn import compiler
from inference_lib.backends.cudnn.compilers import CONTEXT_BYTES, Compilers
from inference_lib.measure.cell import Cell, Turn
from inference_lib.measure.exports import Exporter
from inference_lib.measure.plan import Rival
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.seam import Artifact, Model, Workload, build
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

REASON = "no data set in data; run `python -m inference_lib data`, which tells where to put it " + "and more " * 40


class Thing:
    """Does what can go wrong in a worker, which keeps texts in ``build``."""

    def __init__(self, build: Path = paths.BUILD) -> None:
        self.calls, paths.BUILD = 0, build

    def called(self) -> int:
        self.calls += 1
        return self.calls

    def pid(self) -> int:
        return os.getpid()

    def fail(self, kind: type[Exception], text: str) -> None:
        raise kind(text)

    def refuse(self) -> None:
        raise CourseError(REASON)

    def run_out_of_memory(self) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    def die(self, number: int = signal.SIGKILL) -> None:
        os.kill(os.getpid(), number)

    def leave(self, code: int) -> None:
        os._exit(code)

    def hang(self) -> None:
        time.sleep(600)

    def start_a_child(self) -> int:
        return subprocess.Popen(["sleep", "600"]).pid


class Broken:
    """Cannot even be made."""

    def __init__(self) -> None:
        raise CourseError("PyTorch has no fresh export of this; make one")


class KilledExporter(Exporter):
    """Is killed while it exports, as by a machine that ran out of memory."""

    def export(self, rival: Rival, timed: bool) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def reference(self, model: Model, device: str, images: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KilledCell(Cell):
    """Is killed in its third turn where it is ONNX Runtime's."""

    turns = 0

    def turn(self, iterations: int, discarded: int) -> Turn:
        self.turns += 1
        if self.backend.name == "onnxruntime" and self.turns == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().turn(iterations, discarded)


class HungExporter(Exporter):
    """Never finishes."""

    def export(self, rival: Rival, timed: bool) -> None:
        time.sleep(600)


class CountingExporter(Exporter):
    """Writes how many of its kind were at work when it ended, itself included."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def export(self, rival: Rival, timed: bool) -> None:
        mine = self.folder / f"{rival.workload.batch_size}.begun"
        mine.touch()
        time.sleep(0.3 * rival.workload.batch_size)
        mine.with_suffix(".ended").write_text(str(len(list(self.folder.glob("*.begun")))))
        mine.unlink()


class LoggingExporter(Exporter):
    """Writes which process exported which batch size, and cannot export one of 2."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def export(self, rival: Rival, timed: bool) -> None:
        with self.log.open("a") as log:
            print(os.getpid(), rival.backend, rival.workload.batch_size, timed, file=log)
        if rival.workload.batch_size == 2:
            raise CourseError("cuDNN has no plan")


class Compiling:
    """Keeps cuDNN's compilers, as an export does: two processes, which run ``script`` instead."""

    def __init__(self, script: Path) -> None:
        vars(torch.cuda).update(current_device=lambda: 0, mem_get_info=lambda: (2 * CONTEXT_BYTES, 2**34))
        vars(compiler).update(__file__=str(script))
        self._compilers = Compilers()

    def compilers(self) -> list[int]:
        return [process._process.pid for process in self._compilers._every]


class Writer:
    """A framework whose export says who wrote it, and is done when as many have begun as there are to meet."""

    title, times_kernels = "Writer", False

    def __init__(self, root: Path, meeting: Path, others: int) -> None:
        self.root, self.meeting, self.others = root, meeting, others

    def artifact_key(self, workload: Workload) -> str:
        return f"writer/{workload.model}"

    def versions(self) -> dict[str, str]:
        return {"writers": str(self.others)}

    def stored_precision(self, artifact: Artifact) -> str:
        return "fp32"

    def export(self, model: nn.Module, workload: Workload, directory: Path) -> None:
        (directory / "first half").write_text(str(os.getpid()))
        (self.meeting / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(self.meeting.iterdir())) < self.others:
            assert time.monotonic() < deadline, "nobody else exports"
            time.sleep(0.01)
        (directory / "second half").write_text(str(os.getpid()))

    export.__module__ = build.__module__  # only what the library holds is looked at for changes

    def build(self) -> list[str]:
        """Export, and return who wrote the halves of what is there then."""
        folder = build(self, Workload("vanilla_cnn", 1), self.root).directory
        return [(folder / half).read_text() for half in ("first half", "second half")]


class Endless(Writer):
    """Exports anew and keeps records, in a folder that others may use, too."""

    turn = 0

    def __init__(self, folder: Path, record: str) -> None:
        super().__init__(folder / "artifacts", folder, 0)
        self.folder, self.store = folder, RecordStore(folder / "records")
        self.record = Record.model_validate_json(record)

    def versions(self) -> dict[str, str]:
        return {"turn": f"{os.getpid()}, {self.turn}"}

    def ready(self) -> None:
        """Do nothing: whoever has this answer knows that the process runs."""

    def once(self) -> list[str]:
        self.turn += 1
        for batch_size in (1, 2, 3):
            self.store.write(self.record.model_copy(update={"batch_size": batch_size}))
        return self.build()

    def for_ever(self) -> None:
        while True:
            with suppress(FileNotFoundError):  # another process has replaced the export that was about to be read
                self.once()

    def once_without_rights(self) -> list[str]:
        """Be a user who may only read."""
        if os.geteuid() == 0:
            os.seteuid(65534)
        return self.once()

    def once_in_files_of(self, size: int) -> list[str]:
        """Be a user whose files may have ``size`` bytes at most."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return self.once()
