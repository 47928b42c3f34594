"""What the profiler and the hooks say of a network whose operations are known."""

import torch
from torch import nn

from inference_lib.measure.operations import layers, operations, timeline

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)).eval()
IMAGES = torch.zeros(2, 3, 8, 8)


def call() -> torch.Tensor:
    with torch.inference_mode():
        return NETWORK(IMAGES)


def test_the_timeline_is_in_order_and_starts_at_zero() -> None:
    table = timeline(call, "cpu")
    assert set(table["row"]) == {"host"}
    names = table["name"].tolist()
    assert [n for n in names if n in ("aten::conv2d", "aten::relu", "aten::linear")] == [
        "aten::conv2d",
        "aten::relu",
        "aten::linear",
    ]
    assert "aten::convolution" not in names  # called by conv2d, not by Python
    assert table["start_ms"].min() == 0
    ends = table["start_ms"] + table["length_ms"]
    assert (table["start_ms"].to_numpy()[1:] >= ends.to_numpy()[:-1]).all()


def test_the_timeline_leaves_out_the_call_in_which_the_profiler_asks_for_its_memory() -> None:
    already = False

    def held_up_when_a_profile_begins() -> None:
        nonlocal already
        recorded = torch.autograd._profiler_enabled()
        if recorded and not already:
            torch.sigmoid(IMAGES)
        already = recorded
        torch.relu(IMAGES)

    assert timeline(held_up_when_a_profile_begins, "cpu")["name"].tolist() == ["aten::relu"]


def test_operations_are_counted() -> None:
    table = operations(call, "cpu").set_index("operation")
    assert table.loc["aten::addmm", "calls"] == 1
    assert (table["ms"] > 0).all()


def test_layers_have_the_work_that_a_hand_counts() -> None:
    table = layers(NETWORK, IMAGES).set_index("layer")
    assert table.loc["0", "FLOP"] == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3)
    assert table.loc["0", "bytes"] == 4 * (IMAGES.numel() + 4 * 3 * 9 + 2 * 4 * 6 * 6)
    assert table.loc["3", "FLOP"] == 2 * 2 * (4 * 6 * 6) * 5
    assert table.loc["3", "bytes"] == 4 * (2 * 4 * 6 * 6 + 4 * 6 * 6 * 5 + 5 + 2 * 5)
    assert table.loc["1", "FLOP"] == 0
    assert (table["ms"] > 0).all()
    assert not NETWORK[0]._forward_hooks


def test_layers_are_named_by_what_they_do() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.ReLU6()).eval()
    table = layers(network, torch.zeros(1, 4, 8, 8)).set_index("layer")
    assert table.sort_index()["kind"].tolist() == ["depthwise", "batch norm", "convolution 1 x 1", "ReLU6"]
