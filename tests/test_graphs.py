"""Which kernels of a CUDA graph may start before the one before them has ended."""

from types import SimpleNamespace

import pytest

from inference_lib.backends.shared.graphs import in_turn

runtime = pytest.importorskip("cuda.bindings.runtime")
STREAM, GRAPH, DONE = SimpleNamespace(cuda_stream=1), runtime.cudaGraph_t(100), runtime.cudaError_t.cudaSuccess


class Capture:
    """Stands in for CUDA: nodes 1, 2, ... of a graph, each after the one before, and whether each starts early."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.early: dict[int, bool] = {}
        self.capturing, self.removed = True, {}  # type: ignore[var-annotated]
        names = {
            "cudaStreamGetCaptureInfo": self.info,
            "cudaGraphNodeGetDependencies": self.dependencies,
            "cudaGraphRemoveDependencies": self.remove,
            "cudaGraphAddDependencies": self.add,
        }
        for name, stand_in in names.items():
            monkeypatch.setattr(runtime, name, stand_in)

    def queue(self, *early: bool) -> None:
        """Capture kernels."""
        for one in early:
            self.early[len(self.early) + 1] = one

    def info(self, stream: int) -> tuple:
        states = runtime.cudaStreamCaptureStatus
        if not self.capturing:
            return DONE, states.cudaStreamCaptureStatusNone, 0, runtime.cudaGraph_t(0), [], [], 0
        latest = [runtime.cudaGraphNode_t(len(self.early))] if self.early else []
        return DONE, states.cudaStreamCaptureStatusActive, 7, GRAPH, latest, [], len(latest)

    def dependencies(self, node: object, count: int = 0) -> tuple:
        types, number = runtime.cudaGraphDependencyType, number_of(node)
        kinds = (types.cudaGraphDependencyTypeDefault, types.cudaGraphDependencyTypeProgrammatic)
        before = [runtime.cudaGraphNode_t(number - 1)][:count] if number > 1 else []
        return DONE, before, [SimpleNamespace(type=kinds[self.early[number]]) for _ in before], int(number > 1)

    def remove(self, graph: object, before: list, after: list, kinds: list, count: int) -> tuple:
        assert (graph, len(before), count) == (GRAPH, 1, 1)
        assert kinds[0].type == runtime.cudaGraphDependencyType.cudaGraphDependencyTypeProgrammatic
        self.removed[number_of(after[0])] = number_of(before[0])
        return (DONE,)

    def add(self, graph: object, before: list, after: list, kinds: None, count: int) -> tuple:
        assert (graph, self.removed.pop(number_of(after[0])), count) == (GRAPH, number_of(before[0]), 1)
        self.early[number_of(after[0])] = False
        return (DONE,)


def number_of(node: object) -> int:
    """Return the number of a node; CUDA's functions take lists of nodes, and none of numbers."""
    assert isinstance(node, runtime.cudaGraphNode_t)
    return int(node)


def test_kernels_of_the_block_wait_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(monkeypatch)
    capture.queue(False, True)
    with in_turn(STREAM):  # type: ignore[arg-type]
        capture.queue(True, False, True)
    capture.queue(True)
    assert capture.early == {1: False, 2: True, 3: False, 4: False, 5: False, 6: True}
    assert not capture.removed


def test_the_first_kernel_of_a_graph_has_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(monkeypatch)
    with in_turn(STREAM):  # type: ignore[arg-type]
        capture.queue(True, True)
    assert capture.early == {1: True, 2: False}


def test_a_stream_that_is_not_captured_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(monkeypatch)
    capture.capturing = False
    with in_turn(STREAM):  # type: ignore[arg-type]
        capture.queue(True, True)
    assert capture.early == {1: True, 2: True}


def test_a_graph_that_cannot_be_edited_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(monkeypatch)
    refused = (runtime.cudaError_t.cudaErrorInvalidValue,)
    monkeypatch.setattr(runtime, "cudaGraphAddDependencies", lambda *arguments: refused)
    capture.queue(False)
    with pytest.raises(RuntimeError, match="CUDA answered cudaErrorInvalidValue"), in_turn(STREAM):  # type: ignore[arg-type]
        capture.queue(True)
