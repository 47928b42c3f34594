"""The line of a long message that a reader needs; the messages are those of real tools, shortened."""

import pytest

from inference_lib.support.errors import CourseError, cause_line
from inference_lib.support.failures import reason_of

UNKNOWN_FLAG = """CppCompileError: C++ compile error

Command:
/usr/bin/g++ /scratch/a/header.hpp -D TORCH_INDUCTOR_CPP_WRAPPER -O3 -Wno-error -fno-trapping-math -march=native

Output:
In file included from /scratch/x/main.cpp:1:
g++: error: unrecognized command-line option '-fno-such-flag'; did you mean '-fno-mudflap'?


Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this especially if you're reporting a bug to PyTorch).
"""

FULL_DISK = """Compilation error:
/scratch/b/lib.o: warning: something harmless
/scratch/c.s: Assembler messages:
/scratch/c.s: Fatal error: can't write 12 bytes to section .text of /scratch/b/lib.o: 'No space left on device'
/scratch/c.s: Fatal error: /scratch/b/lib.o: No space left on device
Command line: g++ -shared -fPIC -o /scratch/b/lib.so
"""

LINKER = """C++ compile error

Command:
g++ main.o -o main.so -L/opt/my env/lib -ltorch

Output:
g++: warning: env/lib: linker input file unused because linking not done
/usr/bin/ld: cannot find -ltorch: No such file or directory
collect2: error: ld returned 1 exit status
"""

NO_HEADER = """Compilation error:
main.cpp:1:10: fatal error: cuda_runtime.h: No such file or directory
    1 | #include <cuda_runtime.h>
      |          ^~~~~~~~~~~~~~~~
compilation terminated.
"""

NO_ONNX_FUNCTION = """Failed to convert the exported program to an ONNX model. This is step 3/3 of exporting the model to ONNX.
- If there is a missing ONNX function, implement it and register it to the registry.
- If there is an internal error during ONNX conversion, debug the error and submit a PR to PyTorch.

## Exception summary

<class 'torch.onnx._internal.exporter._errors.DispatchError'>: No ONNX function found for <OpOverload(op='aten.linalg_eig', overload='default')>. Failure message: No decompositions registered for the real-valued input
"""  # noqa: E501


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (UNKNOWN_FLAG, "unrecognized command-line option '-fno-such-flag'"),
        (FULL_DISK, "No space left on device"),
        (LINKER, "cannot find -ltorch"),
        (NO_HEADER, "fatal error: cuda_runtime.h: No such file"),
        (NO_ONNX_FUNCTION, "op='aten.linalg_eig'"),
        ("Unsupported function types ['linalg_eig.default']", "linalg_eig.default"),
        (
            "\nCUDA error: an illegal memory access\nCUDA kernel errors might come later",
            "an illegal memory access",
        ),
        ("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1", "No working C++ compiler"),
        ("\n  something else\nmore of it", "something else"),
    ],
)
def test_the_line_that_names_the_cause_is_found(text: str, cause: str) -> None:
    for said in (cause_line(text), reason_of(RuntimeError(text))):
        assert cause in said
        assert "\n" not in said
        assert len(said) <= 300


def test_our_own_line_stays_and_an_error_without_a_text_has_its_name() -> None:
    assert reason_of(CourseError("delete the folder; error: no")) == "delete the folder; error: no"
    assert reason_of(KeyError()) == "KeyError"
