"""What Inductor needs around it: tools, a place for its cache, and some behaviour that it has no setting for."""

import contextlib
import os
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inference_lib.backends.shared.replaced import replaced
from inference_lib.backends.shared.silence import silenced
from inference_lib.seam import Availability
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from torch._inductor.cpu_vec_isa import VecISA


def missing_tool(device: str) -> Availability | None:
    """Say which tool Inductor lacks, if it lacks one."""
    compiler = os.environ.get("CXX", "g++")  # as Inductor chooses it
    if shutil.which(compiler) is None:
        remedy = "apt-get install g++ (or conda install gxx), or set CXX to the one you have"
        return Availability(False, torch.__version__, f"the C++ compiler {compiler} was not found", remedy)
    if device == "cuda" and find_spec("triton") is None:
        return Availability(False, torch.__version__, "triton is not installed", "pip install triton==3.6.0")
    return None


def cuda_home() -> Path | None:
    """Return a folder with CUDA's headers: the toolkit that PyTorch finds, or what PyTorch was installed with."""
    with quiet():
        from torch.utils import cpp_extension
    nvidia = find_spec("nvidia")
    wheels = [Path(place) / "cu13" for place in (nvidia.submodule_search_locations or [])] if nvidia else []
    toolkit = [Path(cpp_extension.CUDA_HOME)] if cpp_extension.CUDA_HOME else []
    return next((home for home in (*toolkit, *wheels) if (home / "include" / "cuda_runtime_api.h").exists()), None)


def check_runtime(package: Path) -> None:
    """Refuse an ahead-of-time package with a C++ library of its own: PyTorch's and this one number locales differently.

    Raises:
        CourseError: the compiler linked it statically; loading would end in ``std::bad_cast`` or a segmentation fault.

    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    with zipfile.ZipFile(package) as content:
        libraries = [content.read(name) for name in content.namelist() if name.endswith(".so")]
    if not all(b"libstdc++.so" in library or b"libc++.so" in library for library in libraries):
        raise CourseError(
            f"the C++ compiler {get_cpp_compiler()} links the C++ library statically, and what it compiled would crash "
            "in this process; set CXX to another one, such as /usr/bin/g++"
        )


@contextlib.contextmanager
def compiling(cache: Path | None = None) -> Iterator[None]:
    """Compile quietly, with Inductor's cache in the folder ``cache``; without one, from nothing, and nothing is kept.

    What is found there is not compiled again, and no processes are started that would help. On a GPU that is the whole
    program; on a CPU it is every compiled library, while the graph, whose packed weights PyTorch does not store, is
    lowered anew.

    Headers are not compiled ahead: that is done outside of the cache, and looked at again by every process that loads.
    """
    from torch._inductor import config, utils

    settings: dict[str, Any] = {"cpp_cache_precompile_headers": False, "aot_inductor.precompile_headers": False}
    if cache is not None and cache.exists():
        settings["compile_threads"] = 1
    place = utils.fresh_cache() if cache is None else _cache_in(cache)
    with quiet(), believing_the_processor(), quoting_paths(), config.patch(settings), place:
        yield


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Let Inductor and Triton look in ``folder``, also for which variant of a kernel was the fastest when it was tuned.

    By itself, Inductor looks for that where the kernel was compiled. An artifact is moved once it is whole, so each
    load would tune all of its kernels again, beside whatever else is on the GPU.
    """
    from torch._inductor import utils
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    recheck = CachingAutotuner.recheck_autotune_cache

    def recheck_here(self: Any, *given: Any, **named: Any) -> None:
        if self.filename is not None:  # the cache keeps a kernel in a folder of two letters
            self.filename = str(folder.joinpath(*Path(self.filename).parts[-2:]))
        recheck(self, *given, **named)

    triton = utils._set_env("TRITON_CACHE_DIR", str(folder / "triton"))
    with triton, temporary_cache_dir(str(folder)), replaced(CachingAutotuner, "recheck_autotune_cache", recheck_here):
        yield


@contextlib.contextmanager
def quoting_paths() -> Iterator[None]:
    """Let Inductor's C++ builder quote every path in a command, which it splits at spaces again.

    By itself it quotes the folders of headers alone: an environment, a cache or a temporary folder with a space in its
    path ends in "cannot find -ltorch" or "No such file".
    """
    from torch._inductor.cpp_builder import CppBuilder

    prepare_command = CppBuilder.__init__

    def prepare_quoted(self: Any, name: str, sources: str | list[str], *rest: Any, **named: Any) -> None:
        prepare_command(self, name, sources, *rest, **named)
        folders = self._build_option.get_libraries_dirs()
        self._libraries_dirs_args = "".join(f"-L{shlex.quote(folder)} " for folder in folders)
        self._output = self._output.replace(self._target_file, shlex.quote(self._target_file))
        for source in [sources] if isinstance(sources, str) else sources:
            self._sources_args = self._sources_args.replace(source, shlex.quote(source))

    with replaced(CppBuilder, "__init__", prepare_quoted):
        yield


@contextlib.contextmanager
def believing_the_processor() -> Iterator[None]:
    """Let Inductor use the vector instructions that the processor reports, if the C++ compiler knows them.

    By itself, Inductor compiles a small library for each set of instructions, and loads it in another process, which
    imports PyTorch: seconds in every process that compiles for a CPU, or loads what was compiled for one.
    """
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import VecISA

    with config.patch({"cpp.vec_isa_ok": True}), replaced(VecISA, "check_build", _compiler_knows):
        yield


def _compiler_knows(instructions: "VecISA", code: str) -> bool:
    """Say whether Inductor's C++ compiler takes the flags of a set of vector instructions; ``code`` uses them."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    flags = instructions.build_arch_flags().split()
    command = [get_cpp_compiler(), *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def quiet() -> contextlib.AbstractContextManager[None]:
    """Keep hints out of the reader's way (TF32 is off on purpose, an operation is a library's); errors still raise.

    Among them are the candidates of a search for kernels: a screenful for each matrix product, on standard error.
    """
    return silenced("torch.utils.cpp_extension", "torch._inductor.utils", "torch._inductor.ir", stdout=False)
