"""Which kernels of a CUDA graph may start before the one before them has ended."""

from types import SimpleNamespace

import pytest

from inference_lib.backends.shared import graphs

runtime = pytest.importorskip("cuda.bindings.runtime")
GRAPH, EARLY, PLAIN = 100, 1, 0
DONE = (runtime.cudaError_t.cudaSuccess,)


@pytest.fixture
def edges(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], int]:
    """Let a dictionary stand in for a graph in CUDA: from and to which node, and of which type an edge is."""
    found = {(1, 2): EARLY, (2, 3): PLAIN, (3, 4): EARLY}

    def get(graph: int, count: int = 0) -> tuple:
        known = list(found)[:count]
        kinds = [SimpleNamespace(type=runtime.cudaGraphDependencyType(found[edge])) for edge in known]
        return *DONE, [before for before, _ in known], [after for _, after in known], kinds, len(found)

    def remove(graph: int, before: list[int], after: list[int], kinds: list[SimpleNamespace], count: int) -> tuple:
        assert [found.pop(edge) for edge in zip(before, after, strict=True)] == [kind.type for kind in kinds]
        return DONE

    def add(graph: int, before: list[int], after: list[int], kinds: None, count: int) -> tuple:
        assert graph == GRAPH
        found.update(dict.fromkeys(zip(before, after, strict=True), PLAIN))
        return DONE

    names = {"cudaGraphGetEdges": get, "cudaGraphRemoveDependencies": remove, "cudaGraphAddDependencies": add}
    for name, stand_in in names.items():
        monkeypatch.setattr(runtime, name, stand_in)
    return found


def test_in_turn_every_kernel_waits_for_the_end_of_the_one_before(edges: dict[tuple[int, int], int]) -> None:
    graphs._order(GRAPH)
    assert edges == {(1, 2): PLAIN, (2, 3): PLAIN, (3, 4): PLAIN}
    graphs._order(GRAPH)  # with nothing to change
    assert edges == {(1, 2): PLAIN, (2, 3): PLAIN, (3, 4): PLAIN}


def test_a_graph_that_cannot_be_edited_is_said(
    edges: dict[tuple[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = (runtime.cudaError_t.cudaErrorInvalidValue,)
    monkeypatch.setattr(runtime, "cudaGraphAddDependencies", lambda *arguments: refused)
    with pytest.raises(RuntimeError, match="CUDA answered cudaErrorInvalidValue"):
        graphs._order(GRAPH)
