"""Every backend with every wrong input: refused in one line, or answered rightly."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from inputs import eager_logits, largest_difference, noise

from inference_lib.backends import BACKENDS
from inference_lib.seam import Runner, Workload, build
from inference_lib.seam.contract import acceptor
from inference_lib.support.errors import CourseError

WORKLOAD = Workload("vanilla_cnn", 2)
ON_CPU = [name for name, backend in BACKENDS.items() if backend.supports(WORKLOAD).ok]


@pytest.fixture(scope="module", params=ON_CPU)
def runner(request: pytest.FixtureRequest, root: Path) -> Iterator[Runner]:
    """Return each backend's runner in turn: all tests of one run before the next is loaded."""
    backend = BACKENDS[request.param]
    if not (found := backend.availability("cpu")).usable:
        pytest.skip(found.reason)
    with backend.load(build(backend, WORKLOAD, root)) as runner:
        runner.backend_name = request.param  # type: ignore[attr-defined]
        yield runner


def in_parts(runner: Runner, batch: np.ndarray) -> np.ndarray:
    runner.upload(batch)
    runner.compute()
    return runner.download()


each_way = pytest.mark.parametrize("answer", [lambda r, b: r.infer(b), in_parts], ids=["infer", "in parts"])
Answer = Callable[[Runner, object], np.ndarray]


def read_only(batch: np.ndarray) -> np.ndarray:
    batch = batch.copy()
    batch.flags.writeable = False
    return batch


def in_a_file(batch: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "batch.npy", batch)
    return np.load(folder / "batch.npy", mmap_mode="r")


def unaligned(batch: np.ndarray) -> np.ndarray:
    memory = np.zeros(batch.nbytes + 1, np.uint8)
    moved = memory[1:].view(batch.dtype).reshape(batch.shape)
    moved[:] = batch
    return moved


WRONG: dict[str, tuple[Callable[[np.ndarray], object], str]] = {
    "float64": (lambda b: b.astype(np.float64), "got float64"),
    "float16": (lambda b: b.astype(np.float16), "got float16"),
    "uint8": (lambda b: b.astype(np.uint8), "got uint8"),
    "big-endian": (lambda b: b.astype(">f4"), "got float32 in another byte order"),
    "objects": (lambda b: b.astype(object), "got object"),
    "text": (lambda b: b.astype(str), "got str"),
    "complex": (lambda b: b.astype(np.complex64), "got complex64"),
    "no pictures": (lambda b: b[:0], r"got shape \(0, 3, 224, 224\)"),
    "another batch size": (lambda b: b[:1], r"got shape \(1, 3, 224, 224\)"),
    "a dimension too few": (lambda b: b[0], r"got shape \(3, 224, 224\)"),
    "a dimension too many": (lambda b: b[None], r"got shape \(1, 2, 3, 224, 224\)"),
    "channels last": (lambda b: b.transpose(0, 2, 3, 1), r"got shape \(2, 224, 224, 3\)"),
    "smaller pictures": (lambda b: b[..., ::2], r"got shape \(2, 3, 224, 112\)"),
    "list": (lambda b: b.tolist(), "got a list"),
    "masked": (lambda b: np.ma.masked_less(b, 0), "got a MaskedArray"),
    "nothing": (lambda b: None, "got a NoneType"),
}

UNUSUAL: dict[str, Callable[[np.ndarray, Path], np.ndarray]] = {
    "transposed view": lambda b, _: np.ascontiguousarray(b.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "negative strides": lambda b, _: np.ascontiguousarray(b[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
    "every second": lambda b, _: np.repeat(b, 2, axis=3)[..., ::2],
    "fortran order": lambda b, _: np.asfortranarray(b),
    "one picture twice": lambda b, _: np.broadcast_to(b[:1], b.shape),
    "read-only": lambda b, _: read_only(b),
    "a file in memory": in_a_file,
    "unaligned": lambda b, _: unaligned(b),
}


@each_way
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_in_one_line(runner: Runner, case: str, answer: Answer) -> None:
    spoil, reason = WRONG[case]
    with pytest.raises(CourseError, match=reason) as refused:
        answer(runner, spoil(np.abs(noise(WORKLOAD))))
    assert str(refused.value).startswith("Vanilla CNN takes a NumPy array of shape (2, 3, 224, 224) and type float32")
    assert "\n" not in str(refused.value)


@each_way
@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_only_unusual_is_answered_rightly(runner: Runner, case: str, answer: Answer, tmp_path: Path) -> None:
    batch = UNUSUAL[case](noise(WORKLOAD), tmp_path)
    before = np.array(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch says that it may write to a read-only array
        logits = answer(runner, batch)
    assert largest_difference(logits, eager_logits("vanilla_cnn", np.array(batch, order="C"))) < 1e-4
    np.testing.assert_array_equal(batch, before)


@each_way
def test_from_not_a_number_some_answer_not_a_number(runner: Runner, answer: Answer) -> None:
    """PyTorch does; the maximum of others may drop it, as the processor's does: their logits are finite, and wrong."""
    batch = noise(WORKLOAD)
    batch[0, :, 100:120, 100:120] = np.nan
    logits = answer(runner, batch)
    kept = np.isnan(logits[0]).all()
    assert kept or (np.isfinite(logits[0]).all() and runner.backend_name != "pytorch")  # type: ignore[attr-defined]
    assert largest_difference(logits[1], eager_logits("vanilla_cnn", noise(WORKLOAD))[1]) < 1e-4


def test_every_runner_has_the_contract() -> None:
    """A new framework's runner gets it from the base, and cannot leave it out by overriding what is public."""
    waiting, found = [Runner], []
    while waiting:
        runners = waiting.pop().__subclasses__()
        waiting += runners
        found += runners
    assert len(found) > 8
    assert [runner for runner in found if {"infer", "upload"} & vars(runner).keys()] == []


def test_a_batch_that_fits_is_not_copied() -> None:
    batch = noise(WORKLOAD)
    assert acceptor(WORKLOAD)(batch) is batch
    assert acceptor(Workload("vanilla_cnn", 2, "fp16", "cuda"))(half := batch.astype(np.float16)) is half
