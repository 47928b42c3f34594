"""The explorer: its table shows every row, and its script chooses, ranks and prices as the library does."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from chromium import a_tab
from conftest import P99_OVER_MEDIAN

from inference_lib.records.comparison import Comparison, compare
from inference_lib.records.record import Key, Load, Record
from inference_lib.records.statistics import QUANTILES
from inference_lib.records.store import RecordStore
from inference_lib.report import explorer
from inference_lib.report.choose import choose, latency_ms, pareto_front, places
from inference_lib.support import paths

MakeRecord = Callable[..., Record]

SCRIPT = paths.ROOT / "book" / "_static" / "explorer.js"

LARGEST_PAGE = 1_500_000
"""Bytes of the page itself, in the largest edition; what the theme brings stands beside it."""

DRIVER = """
const rules = require(process.argv[1]);
const { data, requests } = JSON.parse(require("fs").readFileSync(0, "utf8"));
data.rows.forEach((row, number) => { row.number = number; });
const answers = requests.map((request) => {
  const wanted = rules.fromAddress(request);
  const { found, fronts } = rules.view(data.rows, wanted, data.same_within);
  const rows = [...found].map(([row, seen]) => ({ number: row.number, ...seen }));
  return { rows, fronts: fronts.map((front) => front.map((row) => row.number)), address: rules.toAddress(wanted) };
});
console.log(JSON.stringify(answers));
"""


def in_the_browser_s_language(data: Mapping[str, Any], requests: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the page's script makes of ``data`` for each request, an address as a reader would send it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here; tests/test_browser.py tries the page itself")
    asked = json.dumps({"data": data, "requests": requests})
    done = subprocess.run([node, "-e", DRIVER, str(SCRIPT)], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


NAMES = {"p50": "max_p50_ms", "p99": "max_p99_ms", "memory": "max_memory_mib", "accuracy": "min_accuracy_percent"}


def requests(records: Sequence[Record], count: int) -> list[dict[str, Any]]:
    """Return requests of all kinds, most with limits that are exactly a row's."""
    luck = random.Random(7)
    found: list[dict[str, Any]] = [{}, {"goal": "throughput"}, {"allow_int8": True}]
    read = [explorer.row("", record) for record in records if record.ok]
    for _ in range(count):
        request: dict[str, Any] = {"goal": luck.choice(["latency", "throughput"])}
        for key, column in {"p50": "ms", "p99": "p99", "memory": "memory", "accuracy": "accuracy"}.items():
            values = [row[column] for row in read if row[column] is not None]
            if values and luck.random() < 0.4:
                request[NAMES[key]] = luck.choice(values)
        found.append(request | {flag: luck.random() < 0.3 for flag in ("without_python", "allow_int8")})
    return found


def address(request: Mapping[str, Any], **filters: str) -> str:
    said = {"goal": request.get("goal", "latency")} | filters
    said |= {key: repr(request[name]) for key, name in NAMES.items() if name in request}
    said |= {
        key: "yes"
        for key, name in {"without_python": "without_python", "int8": "allow_int8"}.items()
        if request.get(name)
    }
    return "&".join(f"{key}={value}".replace(" ", "+") for key, value in said.items())


def check_same_answers(records: Sequence[Record], count: int) -> None:
    """Compare the script with ``choose``, ``places`` and ``pareto_front`` for every machine and model."""
    data, shelves = explorer.data(records), explorer.shelves(records)
    numbered = [record for mine in shelves.values() for record in mine]
    asked = requests(records, count)
    answers = in_the_browser_s_language(data, [address(request) for request in asked])
    for request, answer in zip(asked, answers, strict=True):
        seen, fronts = {row["number"]: row for row in answer["rows"]}, []
        assert len(seen) == len(numbered)
        for mine in shelves.values():
            for model in dict.fromkeys(record.model for record in mine):
                expected = choose(mine, model, **request)
                number = {id(record): n for n, record in enumerate(numbered)}
                said = places(expected.ranked, request.get("goal", "latency"))
                for record, place in zip(expected.ranked, said, strict=True):
                    row = seen[number[id(record)]]
                    assert (row["reason"], row["place"], row["tie"]) == ("", place, said.count(place) > 1), request
                for record, reason in expected.excluded:
                    row = seen[number[id(record)]]
                    assert (row["reason"], row["place"]) == (reason.replace("--allow-int8", "'8 bits allowed'"), None)
                if expected.ranked:
                    fronts.append([number[id(record)] for record in pareto_front(expected.ranked)])
        assert answer["fronts"] == fronts


def made_up(make_record: MakeRecord) -> list[Record]:
    """Return rows at two batch sizes: level, apart, scattered, in eight bits, of one start, not measured, of a CPU."""
    records = []
    for batch in (1, 8):
        ways = [("pytorch", 4.0, "fp32"), ("pytorch-cudagraph", 1.0, "fp16"), ("aot-inductor", 1.005, "fp16")]
        for number, (backend, ms, precision) in enumerate([*ways, ("onnxruntime", 1.2, "int8"), ("tvm", 1.1, "fp16")]):
            noisy = {"luck": 0.2, "seed": number} if backend == "tvm" else {}
            carried = {"iterations": 400 if batch == 1 else 50}
            records.append(
                make_record(
                    ms * batch**0.7,
                    backend=backend,
                    title=backend,
                    precision=precision,
                    batch_size=batch,
                    rivals=f"set {batch}",
                    timing=noisy | carried,
                    gpu_memory_mib=500.0 + 100 * number,
                )
            )
    records.append(make_record(3.0, count=1, backend="torchscript", rivals="another"))
    records.append(make_record(count=0, backend="tensorrt", status="unavailable", reason="no <library>"))
    records += [make_record(30.0, device="cpu"), make_record(29.9, device="cpu", backend="openvino", rivals="x")]
    return [*records, make_record(9.0, model="mobilenet_v2")]


def across_batches(make_record: MakeRecord) -> list[Record]:
    """Return pairs at two batch sizes, each under a name of its own: ever further apart, then level to the last bit."""
    pairs = []
    for gap in range(16):
        for batch, ms in ((1, 1.0), (8, 8 * (1 + 0.005 * gap))):
            noise = {"luck": 0.012, "seed": batch + gap}
            pairs.append(make_record(ms, model=f"{gap} apart", batch_size=batch, rivals=f"{batch}", timing=noise))
    return [*pairs, *(make_record(1.0 * n, model="level", batch_size=n, rivals=f"{n}") for n in (1, 2))]


def test_the_script_answers_as_choose_does(make_record: MakeRecord) -> None:
    check_same_answers(made_up(make_record), 60)
    check_same_answers(across_batches(make_record), 0)


@pytest.mark.skipif(not any(paths.PUBLISHED.glob("records/*.json")), reason="nothing is published yet")
def test_the_script_answers_as_choose_does_on_the_edition(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one network's rows, each pair of which is compared once for all requests."""
    monkeypatch.setattr("inference_lib.report.choose.compare", remembering(compare))
    records = RecordStore(paths.PUBLISHED / "records").read()
    check_same_answers([record for record in records if record.model == "resnet18"], 6)


def remembering(function: Callable[[Record, Record], Comparison]) -> Callable[[Record, Record], Comparison]:
    """Return ``function`` with what it said of each pair of records kept."""
    known: dict[tuple[Key, Key], Comparison] = {}

    def remembered(one: Record, other: Record) -> Comparison:
        pair = (one.key, other.key)
        return known[pair] if pair in known else known.setdefault(pair, function(one, other))

    return remembered


def test_filters_leave_rows_out_of_the_ranking(make_record: MakeRecord) -> None:
    records = made_up(make_record)
    data = explorer.data(records)
    (answer,) = in_the_browser_s_language(data, ["precision=FP16&precision=FP32&batch=8&device=GPU&model=resnet18"])
    rows = [data["rows"][row["number"]] for row in answer["rows"]]
    assert {(row["batch"], row["device"], row["model"]) for row in rows} == {(8, "GPU", "resnet18")}
    assert {row["precision"] for row in rows} == {"FP16", "FP32"}
    assert min(row["place"] for row in answer["rows"] if row["place"]) == 1


@pytest.mark.parametrize(
    "said",
    [
        "",
        "goal=throughput&p99=12.5&memory=900&int8=yes",
        "accuracy=94&without_python=yes&hide=yes&model=resnet18&model=vanilla_cnn&machine=A+B",
        "per_hour=2.5&per_kwh=0.3&sort=rate&down=yes",
    ],
)
def test_an_address_gives_the_view_that_it_was_taken_from(said: str, make_record: MakeRecord) -> None:
    data = explorer.data([make_record()])
    (first,) = in_the_browser_s_language(data, [f"#{said}"])
    assert sorted(first["address"].split("&")) == sorted(said.split("&"))


def test_nonsense_in_an_address_is_no_limit(make_record: MakeRecord) -> None:
    data = explorer.data([make_record()])
    said = ["goal=x&p99=soon&memory=-3&per_hour=&per_kwh=NaN", "p99=Infinity&unknown=1"]
    assert [each["address"] for each in in_the_browser_s_language(data, said)] == ["", ""]


def test_a_cost_is_hire_and_energy_and_none_where_one_was_not_measured(make_record: MakeRecord) -> None:
    load = Load(energy_mj_per_image=7.2, throttle_reasons=[], samples=9, seconds=1)
    records = [
        make_record(2.0, load=load),
        make_record(1.0, backend="tvm", load=None),
        make_record(count=0, backend="tensorrt", status="failed", reason="x"),
    ]
    said = ["per_hour=3.6", "per_hour=3.6&per_kwh=0.5"]
    hire, both = in_the_browser_s_language(explorer.data(records), said)
    # Of 1 ms each, a million take 1,000 s, which cost 1, and their 7,200 J are 0.002 kWh; slow ones make it more.
    slower = 1 + (P99_OVER_MEDIAN - 1) * 3 / QUANTILES
    assert [row["cost"] for row in hire["rows"]] == [pytest.approx(slower), pytest.approx(2 * slower), None]
    assert [row["cost"] for row in both["rows"]] == [None, pytest.approx(2 * slower + 0.001), None]


def test_without_scripts_the_page_is_a_table_of_all_rows(make_record: MakeRecord) -> None:
    records = made_up(make_record)
    page = BeautifulSoup(explorer.page(records, "x.js"), "html.parser")
    rows = page.select("tbody tr")
    assert len(rows) == len(records)
    head = [cell.get_text() for cell in page.select("thead th")]
    read = [dict(zip(head, [cell.get_text() for cell in row.select("td")], strict=True)) for row in rows]
    (loop,) = [
        cells for cells in read if (cells["framework"], cells["batch"], cells["precision"]) == ("pytorch", "1", "FP32")
    ]
    assert (loop["latency ms"], loop["95 %"], loop["machine"]) == ("4.000", "4.000\u20134.000", "NVIDIA Test GPU")
    quickest = [
        cells["latency ms"]
        for cells in read
        if (cells["model"], cells["batch"], cells["device"]) == ("resnet18", "1", "GPU")
    ]
    assert quickest == sorted(quickest, key=lambda shown: (shown == "-", shown))
    assert any("unavailable: no <library>" in row.get_text() for row in rows)
    told = json.loads(page.select_one("#explorer-data").string)
    assert len(told["rows"]) == len(rows)
    assert page.caption.get_text().startswith("Measured on")


def test_in_a_browser_a_reader_filters_limits_sorts_and_sends_the_view(make_record: MakeRecord, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body>{explorer.page(made_up(make_record), SCRIPT.as_uri())}</body>")
    with a_tab() as tab:
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.as_uri())
        rows, status = tab.locator("#explorer-table tbody tr"), tab.locator("[role=status]")
        assert rows.count() == len(made_up(make_record))
        tab.locator("summary", has_text="model").click()
        tab.get_by_role("checkbox", name="resnet18").check()
        tab.get_by_role("checkbox", name="hide what does not meet").check()
        tab.locator("#explorer-p50").fill("1.01")
        tab.locator("#explorer-p50").press("Tab")
        expected = choose(made_up(make_record), "resnet18", max_p50_ms=1.01).ranked
        assert 1 < len(expected) < 5
        assert status.inner_text().startswith(f"{len(expected)} of 14 rows meet the request")
        assert [cell.inner_text() for cell in tab.locator("tbody tr td:nth-child(1)").all()] == [
            r.title for r in expected
        ]
        said = places(expected, "latency")
        shown = [f"{place} (tie)" if said.count(place) > 1 else f"{place}" for place in said]
        assert any("tie" in place for place in shown)
        assert tab.locator("tbody tr td:nth-child(2)").all_inner_texts() == shown
        tab.locator("th button", has_text="latency ms").click()
        tab.locator("th button", has_text="latency ms").click()
        assert rows.first.inner_text().startswith(expected[-1].title)
        assert tab.locator("th[aria-sort=descending]").inner_text().startswith("latency ms")
        assert "resnet18: images per second over latency, 13 rows" in tab.locator("svg[role=img]").get_attribute(
            "aria-label"
        )
        sent = tab.context.new_page()
        sent.goto(tab.url)
        assert sent.locator("#explorer-table").inner_text() == tab.locator("#explorer-table").inner_text()
        tab.get_by_label("Accuracy, at least, %").press("ArrowRight")
        tab.get_by_text("Start again").click()
        assert rows.count() == len(made_up(make_record))
        assert errors == []


def test_a_slider_redraws_the_pareto_front(make_record: MakeRecord, tmp_path: Path) -> None:
    records = [record for record in made_up(make_record) if record.device == "cuda" and record.model == "resnet18"]
    least = min(record.gpu_memory_mib for record in records if record.gpu_memory_mib)
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body>{explorer.page(records, SCRIPT.as_uri())}</body>")
    drawn = []
    with a_tab() as tab:
        tab.goto(page.as_uri())
        for most in (None, least):
            if most:
                tab.get_by_label("GPU memory, at most, MiB").press("Home")
            front = pareto_front(choose(records, "resnet18", max_memory_mib=most).ranked)
            ends = [f"{r.title} {r.precision.upper()}, batch {r.batch_size} (" for r in (front[0], front[-1])]
            label = tab.locator("svg[role=img]").get_attribute("aria-label").split("The Pareto front: ")[1]
            assert [label.find(end) > -1 for end in ends] == [True, True], (label, ends)
            drawn.append(tab.locator("path.front").get_attribute("d"))
            assert drawn[-1].count("L") == len(front) - 1
            assert tab.locator("svg g.best").count() == len(front)
    assert drawn[0] != drawn[1]


def test_data_cannot_end_the_element_that_holds_them(make_record: MakeRecord) -> None:
    bad = make_record(count=0, backend="tvm", status="failed", reason="</script><!--<script>alert(1)</script>")
    page = explorer.page([bad, make_record()], "x.js")
    held, _ = BeautifulSoup(page, "html.parser").find_all("script")
    assert "<" not in held.string
    assert bad.reason in json.loads(held.string)["rows"][-1]["why"]


def test_what_is_ranked_together_shares_machine_and_profile_and_is_of_the_first_run(make_record: MakeRecord) -> None:
    first, again = make_record(), make_record(run="2", batch_size=8)
    quick = make_record(profile="quick", run="3")
    loaded = make_record(profile="load").model_copy(update={"serving": object()})
    found = explorer.shelves([first, first, again, quick, loaded])
    assert found == {"NVIDIA Test GPU (full)": [first], "NVIDIA Test GPU (quick)": [quick]}
    assert list(explorer.shelves([first])) == ["NVIDIA Test GPU"]


def test_a_machine_that_a_reader_brought_replaces_no_row_of_one_called_the_same(make_record: MakeRecord) -> None:
    ours, theirs = make_record(2.0), make_record(7.0)
    assert ours.key == theirs.key
    found = explorer.shelves([ours], {"a-laptop": [theirs], "another": [make_record(9.0, device="cpu"), theirs]})
    assert {title: [round(latency_ms(record), 6) for record in mine] for title, mine in found.items()} == {
        "NVIDIA Test GPU": [2.0],
        "a-laptop: NVIDIA Test GPU": [7.0],
        "another: NVIDIA Test GPU": [7.0],
        "another: Test CPU (2 cores)": [9.0],
    }
    rows = explorer.data([ours], {"a-laptop": [theirs]})["rows"]
    assert [(row["machine"], round(row["ms"], 6)) for row in rows] == [
        ("NVIDIA Test GPU", 2.0),
        ("a-laptop: NVIDIA Test GPU", 7.0),
    ]


def test_the_page_of_a_large_edition_is_light(make_record: MakeRecord) -> None:
    """As many rows as a grid with five precisions and four batch sizes has."""
    one = make_record()
    rows = [one.model_copy(update={"title": f"Framework {n}", "batch_size": n, "rivals": ""}) for n in range(900)]
    assert len(explorer.page(rows, "x.js")) + SCRIPT.stat().st_size < LARGEST_PAGE
