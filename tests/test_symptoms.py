"""The page of symptoms: every entry whole, and every check run that needs no GPU."""

import doctest
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from prose import BOOK, headings, listings
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from inference_lib.support import paths

PAGE = BOOK / "symptoms.md"

PARTS = ("**You see**", "**Likely**", "**Check**", "**Mend**", "**In the book**")

THREADS = {
    "NVIDIA/Model-Optimizer": (80,),
    "NVIDIA/TensorRT": (1787, 2197, 2242, 2900, 3197, 3921, 4560, 4748),
    "Lightning-AI/LitServe": (412, 453, 481),
    "Tencent/YOLO-Master": (248,),
    "apache/tvm": (19976,),
    "iree-org/iree": (13824,),
    "microsoft/onnxruntime": (
        8166, 9162, 10110, 10303, 15250, 17801, 18475, 23372, 23643, 24807, 25963, 26143, 29153,
    ),
    "openvinotoolkit/openvino": (16038, 18866, 30666, 30996, 37989, 38225),
    "openxla/xla": (49123,),
    "pykeio/ort": (548, 603),
    "pytorch/TensorRT": (3031, 3350, 4070, 4431),
    "pytorch/pytorch": (
        44274, 54324, 93247, 144434, 146096, 146524, 148886, 149065, 154456, 157621, 160095, 170138, 170604, 172022,
        174467, 188150, 191715,
    ),
    "ray-project/ray": (41432, 43288, 62553),
    "roboflow/rf-detr": (1214, 1454),
    "triton-inference-server/server": (7205, 7776, 8141),
    "uxlfoundation/oneDNN": (3116, 4001),
}  # fmt: skip
"""The public threads whose readers this page is for."""

COMPILES = "aoti_compile_and_package"
"""A check that calls a C++ compiler for many seconds; a chapter does the same, and a test executes that."""


def entries() -> dict[str, str]:
    """Return the text of each entry by its heading."""
    parts = re.split(r"^### (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    return {
        title: re.split(r"^## ", text, flags=re.MULTILINE)[0]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_entry_has_symptom_causes_check_mend_and_place() -> None:
    for title, text in entries().items():
        places = [text.find(part) for part in PARTS]
        assert -1 not in places, (title, dict(zip(PARTS, places, strict=True)))
        assert places == sorted(places), title
        check, book = (text[places[n] : places[n + 1] if n + 1 < len(places) else None] for n in (2, 4))
        assert re.search(r"^```(python|bash)$", check, re.MULTILINE), f"{title}: no command or cell to check it"
        assert ".ipynb#" in book, f"{title}: no place in a chapter"


def test_every_thread_has_an_entry() -> None:
    text = PAGE.read_text()
    missing = [
        f"{repository}#{number}"
        for repository, numbers in THREADS.items()
        for number in numbers
        if not re.search(rf"\(https://github\.com/{repository}/(issues|pull)/{number}\)", text)
    ]
    assert missing == []


def test_the_table_leads_to_every_entry() -> None:
    table = re.findall(r"^\|.*\|$", PAGE.read_text(), re.MULTILINE)
    listed = {anchor for line in table for anchor in re.findall(r"\(#([^)]+)\)", line)}
    here = headings(PAGE)[1:]
    assert len(here) == len(set(here)), "two headings with one anchor"
    assert listed == set(here) - {"before-you-start"}


def defined(name: str, **names: object) -> Callable[..., Any]:
    """Return the function ``name`` of a check that only defines it; it sees PyTorch, and ``names``."""
    (code,) = [each.code for each in listings(PAGE) if each.kind == "python" and f"def {name}(" in each.code]
    found: dict[str, Any] = {"torch": torch, **names}
    exec(code, found)
    return found[name]


def test_outputs_lie_at_one_place_only_if_the_second_overwrites_the_first() -> None:
    same_place, images, output = defined("same_place"), torch.zeros(2, 3, 32, 32), torch.zeros(4)
    assert not any(same_place(lambda: torch.relu(images)) for _ in range(20)), "a place that is free again is no replay"
    assert same_place(lambda: output.add_(1))


def test_cudnn_is_on_with_and_without_its_search() -> None:
    searched = defined("searched", milliseconds=lambda call: call())
    flags = torch.backends.cudnn
    assert searched(lambda: (flags.enabled, flags.benchmark)) == {False: (True, False), True: (True, True)}


class MadeUpProfile(EventList):
    """A convolution of 100 microseconds as PyTorch's profiler records it: the operation, with what it launched."""

    def __init__(self, **_: object) -> None:
        kernels = {"nchwToNhwcKernel": 30, "sm90_xmma_fprop": 70}
        event = partial(FunctionEvent, thread=0, start_us=0, use_device="cuda", stack=[])
        on_device = partial(event, device_type=DeviceType.CUDA)
        operation = event(0, "aten::cudnn_convolution", end_us=9)
        found = [operation, on_device(1, "a name for all", end_us=100, is_user_annotation=True)]
        for number, (name, length) in enumerate(kernels.items(), 2):
            operation.append_kernel(name, 0, length)
            found.append(on_device(number, name, end_us=length))
        super().__init__(found, use_device="cuda")
        self._build_tree()

    def __enter__(self) -> "MadeUpProfile":
        return self

    def __exit__(self, *_: object) -> None: ...


def test_each_kernel_of_a_profile_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    converting = defined("converting")
    assert converting(lambda: torch.ones(1)) == (0, 0), "a CPU has no kernels"
    monkeypatch.setattr(torch.profiler, "profile", MadeUpProfile)
    assert converting(lambda: None) == (30, 100)


RUN = textwrap.dedent(
    """
    import contextlib, io, json, sys, warnings

    warnings.simplefilter("ignore")
    first, *checks = json.load(sys.stdin)
    common = {}
    exec(first, common)
    for check in checks:
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(check, dict(common))
        except ModuleNotFoundError:
            print("null")
        else:
            print(json.dumps(printed.getvalue()))
    """
)
"""Runs the first listing, then each check in names of its own; says what each printed, null where it cannot run."""

WITHOUT_EXTRAS = 25
"""Checks that need nothing but PyTorch and ONNX Runtime: so many run wherever the tests do."""


def test_every_check_prints_what_the_page_says(tmp_path: Path) -> None:
    checks = [listing for listing in listings(PAGE) if listing.kind == "python" and COMPILES not in listing.code]
    settings = {
        "PYTHONPATH": str(paths.ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ORT_CUDA_UNAVAILABLE": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([listing.code for listing in checks]),
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    printed = [json.loads(line) for line in result.stdout.splitlines() if line == "null" or line.startswith('"')]
    assert len(printed) - printed.count(None) >= WITHOUT_EXTRAS
    for listing, got in zip(checks[1:], printed, strict=True):
        if listing.prints is not None and got is not None:
            assert doctest.OutputChecker().check_output(listing.prints, got, doctest.ELLIPSIS), (listing.code, got)
