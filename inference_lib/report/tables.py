"""Tables from records: the scoreboard, what an export answers and costs, two runs beside each other."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML

from inference_lib.records.pairs import of_all_pictures, pairs
from inference_lib.records.record import Record
from inference_lib.records.replication import cell, replication
from inference_lib.records.runs import runs_of
from inference_lib.records.statistics import Interval
from inference_lib.records.store import select
from inference_lib.report.choose import quickest
from inference_lib.report.flat import flat_row, flat_table
from inference_lib.report.layout import EIGHT_BITS, INTERVAL, LARGEST, show_table, text_table
from inference_lib.report.plots import provenance
from inference_lib.report.words import against
from inference_lib.seam import MODELS, PRECISIONS

CHANCE = 0.05
"""What is this probable by chance, or more, is no finding."""

DEVICE_NAMES = {"cuda": "GPU", "cpu": "CPU"}


def scoreboard(records: Iterable[Record], model: str, batch_size: int = 1) -> pd.DataFrame:
    """Return the reference project's table for one model: framework, device, precision, accuracy, FPS, memory, busy.

    Latency and FPS are end to end at ``batch_size``, throughput is that of batches queued back to back. A cell that
    was not measured keeps its row and says why in ``note``; a column that nothing was measured for is left out, and so
    is ``on images``, the number of test images behind accuracy and agreement, where it is that of every row.
    """
    chosen = [r for r in records if r.model == model and r.batch_size == batch_size]
    best = quickest(chosen) if any(r.ok and r.latency for r in chosen) else None
    rows = [
        {
            "framework": record.title,
            "device": DEVICE_NAMES[record.device],
            "precision": PRECISIONS[record.precision].title,
            "accuracy %": flat["accuracy_percent"],
            "agreement %": flat["agreement_percent"],
            EIGHT_BITS: flat["eight_bits_percent"],
            "on images": record.accuracy.images if record.accuracy else None,
            "latency ms": flat["latency_p50_ms"],
            INTERVAL: ends(record.latency.end_to_end.median) if record.latency else None,
            "device ms": flat["device_ms"],
            "against the quickest": _beside(best, record),
            "FPS": flat["fps"],
            "throughput images/s": record.throughput_images_per_s,
            "GPU memory MiB": record.gpu_memory_mib,
            "GPU busy %": flat["gpu_busy_percent"],
            "note": record.why_not or "; ".join(record.flags),
        }
        for record, flat in zip(chosen, map(flat_row, chosen), strict=True)
    ]
    table = pd.DataFrame(rows).dropna(axis="columns", how="all")
    same = ["on images"] if "on images" in table and table["on images"].nunique() == 1 else []
    return table.drop(columns=["note", *same] if len(table) and not table["note"].any() else same)


def _beside(best: Record | None, record: Record) -> str | None:
    if best is None or not (record.ok and record.latency):
        return None
    return "quickest" if record is best else against(best, record)


def ends(interval: Interval) -> str | None:
    """Return the ends of an interval as text, None where there are none."""
    return None if interval.low is None else f"{interval.low:.3f}\u2013{interval.high:.3f}"


def noted(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Return what each record's row says of its status, and the notes that the numbers in it stand for.

    ``unavailable [1]`` is a row that could not be measured, ``[2]`` one that was and is less trustworthy. A note that
    several rows share is there once.
    """
    texts = [record.reason if not record.ok else "; ".join(record.flags) for record in records]
    notes = list(dict.fromkeys(filter(None, texts)))
    marks = []
    for record, text in zip(records, texts, strict=True):
        words = [] if record.ok else [record.status.replace("_", " ")]
        marks.append(" ".join(words + ([f"[{notes.index(text) + 1}]"] if text else [])))
    return marks, notes


def agreement(records: Sequence[Record]) -> pd.DataFrame:
    """Return accuracy and agreement with the FP32 eager model, a row per backend, model, precision and device.

    Where batch sizes have exports of their own that answer differently, a row each says which of them it is about.
    """
    table = _by_export(
        _cell(record)
        | {
            "accuracy %": accuracy.accuracy_percent,
            "agreement %": accuracy.agreement_percent,
            LARGEST: accuracy.largest_difference,
            "images": accuracy.images,
        }
        for record in records
        if (accuracy := record.accuracy)
    )
    exports = {(record.title, record.model, record.precision, record.device) for record in records if record.accuracy}
    return table if len(table) > len(exports) else table.drop(columns="batch", errors="ignore")


def show_agreement(records: Sequence[Record]) -> HTML:
    """Return :func:`agreement` as HTML, and below it, once each, why rows were not measured."""
    measured = [record for record in records if record.ok]
    reasons = dict.fromkeys(f"{record.title}: {record.why_not}" for record in records if not record.ok)
    caption = f"Agreement with the FP32 eager model. {provenance(measured)}"
    return show_table(agreement(measured), caption, notes=reasons)


def accuracy_lost(records: Iterable[Record]) -> pd.DataFrame:
    """Return what each export in eight bits lost against its FP32 reference, on the same pictures (records.pairs).

    A row an export, with the batch sizes that it serves: the share in eight bits, accuracy, the difference in
    percentage points with its 95 % interval, and how probable as much would be between equally good classifiers.
    """
    rows = []
    for record in records:
        accuracy = record.accuracy
        found = pairs(accuracy) if accuracy and PRECISIONS[record.precision].calibrated else None
        if accuracy and found:
            told = {
                EIGHT_BITS: record.build.eight_bits_percent if record.build else None,
                "images": accuracy.images,
                "accuracy %": accuracy.accuracy_percent,
                "points": found.difference,
                INTERVAL: f"{found.low:+.2f} to {found.high:+.2f}",
                "p": found.p,
                "so": "cannot tell" if found.p > CHANCE else "gains" if found.difference > 0 else "loses",
            }
            rows.append(_cell(record) | told)
    return _by_export(rows)


def costs(records: Iterable[Record]) -> pd.DataFrame:
    """Return what each row takes beside time: to export and load (s), on disk (MB), GPU memory, energy per image (mJ).

    A load is told where it was timed alone. A column that nothing was measured for is left out, so are rows that were
    not measured.
    """
    rows = [
        _cell(record)
        | {
            "export, s": build.export_s,
            "load, s": build.load_s if build.alone else None,
            "file MB": build.artifact_mib * 2**20 / 1e6,
            "GPU memory MiB": record.gpu_memory_mib,
            "mJ per image": record.load.energy_mj_per_image if record.load else None,
        }
        for record in records
        if record.ok and (build := record.build)
    ]
    return _without_lone_device(pd.DataFrame(rows).dropna(axis="columns", how="all"))


def _cell(record: Record) -> dict[str, Any]:
    """Return the columns by which a reader tells a row from the others."""
    return {
        "framework": record.title,
        "model": record.model,
        "device": DEVICE_NAMES[record.device],
        "batch": record.batch_size,
        "precision": PRECISIONS[record.precision].title,
    }


def _by_export(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return a table in which rows that say the same of several batch sizes, as those of one export do, are one."""
    table = pd.DataFrame(rows)
    if len(table):
        by_answer = table.groupby([name for name in table if name != "batch"], sort=False, dropna=False)
        sizes = by_answer["batch"].agg(lambda batch: ", ".join(map(str, sorted(batch))))
        table = sizes.reset_index()[[*table]]
    return _without_lone_device(table)


def _without_lone_device(table: pd.DataFrame) -> pd.DataFrame:
    return table if len(table) and table["device"].nunique() > 1 else table.drop(columns="device", errors="ignore")


def reference_table(model: str) -> pd.DataFrame:
    """Return what the project this course grew from measured for ``model`` at batch 1 on a Quadro T2000."""
    table = pd.read_csv(Path(__file__).with_name("reference_quadro_t2000.csv"))
    return table[table["model"] == model].drop(columns="model")


def reference_rows(framework: str) -> pd.DataFrame:
    """Return what that project measured for ``framework``, and its FPS as a multiple of PyTorch's."""
    found = []
    for model in MODELS:
        table = reference_table(model)
        pytorch = table[table["framework"] == "PyTorch"].set_index("precision")["FPS"]
        rows = table[table["framework"] == framework]
        found.append(rows.assign(model=model, **{"times PyTorch": rows["FPS"] / rows["precision"].map(pytorch)}))
    return pd.concat(found)[["model", "precision", "accuracy %", "FPS", "GPU memory MiB", "times PyTorch"]]


def show_scoreboard(records: Sequence[Record], model: str, caption: str) -> HTML:
    """Return the scoreboard of ``model`` at batch 1 as HTML, a row for every record, notes on single rows below it."""
    mine = [record for record in records if record.model == model and record.batch_size == 1]
    marks, notes = noted(mine)
    table = scoreboard(mine, model)
    if any(marks):
        table["note"] = [mark or None for mark in marks]
    return show_table(table, caption, notes=notes)


def in_format(records: Sequence[Record], kind: str) -> str:
    """Return the records for a person (``table``, ``markdown``: scoreboards) or a program (``csv``, ``json``: rows).

    Their accuracies compare: each is told of as many pictures as any row of its model saw (records.pairs).
    """
    records = of_all_pictures(records)
    if kind == "csv":
        return flat_table(records).to_csv(index=False).rstrip("\n")
    if kind == "json":
        return flat_table(records).to_json(orient="records", indent=1)
    title, form = ("**{}**\n\n{}", "pipe") if kind == "markdown" else ("{}\n{}", "simple")
    return "\n\n".join(title.format(name, text_table(found, form)) for name, found in _scoreboards(records))


def _scoreboards(records: Sequence[Record]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a title and a table for each machine, profile, run, model and batch size that has records."""
    shelves: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        shelves.setdefault((record.machine.name(record.device), record.profile, record.run), []).append(record)
    for (machine, profile, run), mine in shelves.items():
        for model, batch_size in sorted({(r.model, r.batch_size) for r in mine}):
            title = f"{model}, batch {batch_size}, {machine}, {profile} profile, run {run}"
            yield title, scoreboard(mine, model, batch_size)


def replicated(records: Iterable[Record]) -> dict[str, dict[str, Any]] | None:
    """Return what the first two runs among ``records`` say of each other's claims; None where there is one run."""
    measured = [record for record in records if record.ok]
    runs = runs_of(measured)
    return replication(*(select(measured, run=run) for run in runs[:2])) if len(runs) > 1 else None


def measured_twice(records: Iterable[Record]) -> str:
    """Return how many of the first run's measured rows the second one measured, in words: ``"6 of the 9 rows"``.

    Rows on a device on which the second run measured nothing are not counted.
    """
    measured = [record for record in records if record.ok]
    one, two, *_ = runs_of(measured)
    again = {record.device for record in select(measured, run=two)}
    first, second = ({cell(record) for record in select(measured, run=run, device=again)} for run in (one, two))
    return f"{len(first & second)} of the {len(first)} rows" if first - second else f"all {len(first)} rows"


def measured_by_other_code(records: Iterable[Record]) -> int:
    """Return how many of the rows that the first two runs measured the second measured with other code or versions."""
    measured = [record for record in records if record.ok]
    one, two, *_ = runs_of(measured)
    first = {cell(record): record.fingerprint for record in select(measured, run=one)}
    return sum(
        first.get(cell(record), record.fingerprint) != record.fingerprint for record in select(measured, run=two)
    )


def replication_counts(found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the counts of ``records.replication.replication``, a row a kind of time."""
    rows = [
        {"time": kind.replace("_", " ")} | {name.replace("_", " "): row[name] for name in row if name != "worst"}
        for kind, row in found.items()
    ]
    return pd.DataFrame(rows).rename(columns={"compatible percent": "compatible %"})


def text_replication(found: dict[str, dict[str, Any]]) -> str:
    """Return what two runs said of each other's claims, for a terminal: the counts, then the worst pairs."""
    parts = [text_table(replication_counts(found))]
    for kind, row in found.items():
        if row["worst"]:
            parts.append(f"furthest apart, {kind.replace('_', ' ')}\n{text_table(pd.DataFrame(row['worst']))}")
    return "\n\n".join(parts)
