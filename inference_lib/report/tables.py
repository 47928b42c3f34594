"""Tables from records: the scoreboard, two runs beside each other, the flat table of the command line."""

import html
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from importlib import resources
from typing import Any

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

from inference_lib.records.pairs import of_all_pictures, pairs
from inference_lib.records.record import Record
from inference_lib.records.replication import cell, replication
from inference_lib.records.runs import runs_of
from inference_lib.records.statistics import Interval
from inference_lib.records.store import select
from inference_lib.report.choose import quickest
from inference_lib.report.plots import provenance
from inference_lib.report.words import against
from inference_lib.seam import MODELS, PRECISIONS

MISSING = "-"

LARGEST, NOT_A_NUMBER = "largest difference", "not a number"
"""A difference is computed for every row that has one: a gap there is an answer that was no number."""

INTERVAL = "95 %"
"""Heads the column of an interval, whose cells are text and stand where numbers do."""

CHANCE = 0.05
"""What is this probable by chance, or more, is no finding."""

EIGHT_BITS = "in 8 bits %"
"""Heads the part of the multiply-adds whose factors have eight bits: there is none where a precision is no such."""

BYTES_PER_MIB = 2**20

DEVICE_NAMES = {"cuda": "GPU", "cpu": "CPU"}

UNIT_FORMATS = {", ms": "{:.3f}", ", s": "{:.2f}"}

SCOREBOARD_FORMATS = {
    "accuracy %": "{:.2f}",
    "agreement %": "{:.2f}",
    "latency ms": "{:.3f}",
    "p99 ms": "{:.3f}",
    "device ms": "{:.3f}",
    "FPS": "{:,.0f}",
    "throughput images/s": "{:,.0f}",
    "GPU memory MiB": "{:,.0f}",
    "GPU busy %": "{:.0f}",
    "compatible %": "{:.1f}",
    "on images": "{:,.0f}",
    "images": "{:,.0f}",
    "file MB": "{:.1f}",
    "mJ per image": "{:.2f}",
    EIGHT_BITS: "{:.1f}",
    LARGEST: "{:.1e}",
    "times PyTorch": "{:.1f}",
    "times faster": "{:.2f}",
    "ms": "{:.3f}",
    "points": "{:+.2f}",
    "p": "{:.2g}",
}


FLAT_COLUMNS = {
    "machine": "",
    "backend": "",
    "model": "",
    "device": "",
    "precision": "",
    "batch_size": "",
    "status": "",
    "reason": "",
    "accuracy_percent": "accuracy.accuracy_percent",
    "agreement_percent": "accuracy.agreement_percent",
    "latency_p50_ms": "latency.end_to_end.p50",
    "latency_p99_ms": "latency.end_to_end.p99.value",
    "upload_ms": "parts.upload",
    "compute_ms": "parts.compute",
    "download_ms": "parts.download",
    "fps": "",
    "throughput_images_per_s": "",
    "gpu_memory_mib": "",
    "gpu_busy_percent": "load.busy_percent",
    "invocations": "",
    "iterations": "latency.end_to_end.iterations",
    "latency_low_ms": "latency.end_to_end.median.low",
    "latency_high_ms": "latency.end_to_end.median.high",
    "device_ms": "latency.device.value",
    "device_low_ms": "latency.device.low",
    "device_high_ms": "latency.device.high",
    "host_pace": "host_pace_ms",
    "run": "",
    "eight_bits_percent": "build.eight_bits_percent",
}
"""The columns of the flat table, and where in a record each is found, if not under its own name."""


def flat_table(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row a record with the columns of ``report --format csv``; times in ms, empty where not measured."""
    return pd.DataFrame([flat_row(record) for record in records], columns=list(FLAT_COLUMNS))


def flat_row(record: Record) -> dict[str, Any]:
    """Return a row of :func:`flat_table`, by the names of its columns."""
    paths = {name: (path or name).split(".") for name, path in FLAT_COLUMNS.items()}
    parts = {part: getattr(record, part) for part in dict.fromkeys(part for part, *_ in paths.values())}
    flat = {name: reduce(_of, rest, parts[part]) for name, (part, *rest) in paths.items()}
    return flat | {"machine": record.machine.name(record.device), "invocations": len(record.invocations) or None}


def _of(whole: object, name: str) -> Any:
    return None if whole is None else getattr(whole, name)


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


def agreement(records: Iterable[Record]) -> pd.DataFrame:
    """Return accuracy and agreement with the FP32 eager model, a row per backend, model, precision and device.

    The device has a column where there are several.
    """
    rows = {
        (record.title, record.model, record.precision, record.device): {
            "framework": record.title,
            "model": record.model,
            "device": DEVICE_NAMES[record.device],
            "precision": PRECISIONS[record.precision].title,
            "accuracy %": record.accuracy.accuracy_percent,
            "agreement %": record.accuracy.agreement_percent,
            "largest difference": record.accuracy.largest_difference,
            "images": record.accuracy.images,
        }
        for record in records
        if record.accuracy
    }
    return _without_lone_device(pd.DataFrame(rows.values()))


def show_agreement(records: Sequence[Record]) -> HTML:
    """Return :func:`agreement` as HTML, and below it, once each, why rows were not measured."""
    measured = [record for record in records if record.ok]
    reasons = dict.fromkeys(f"{record.title}: {record.why_not}" for record in records if not record.ok)
    caption = f"Agreement with the FP32 eager model. {provenance(measured)}"
    return show_table(agreement(measured), caption, notes=reasons)


def accuracy_lost(records: Iterable[Record]) -> pd.DataFrame:
    """Return what each export in eight bits lost against its FP32 reference, on the same pictures (records.pairs).

    A row an export, with the batch sizes that it serves: the share in eight bits, accuracy, the difference in
    percentage points with its 95 % interval, and how probable as much would be between equally good classifiers. The
    device has a column where there are several.
    """
    rows: dict[tuple[object, ...], dict[str, Any]] = {}
    for record in records:
        accuracy, share = record.accuracy, record.build.eight_bits_percent if record.build else None
        found = pairs(accuracy) if accuracy and PRECISIONS[record.precision].calibrated else None
        if not (accuracy and found):
            continue
        cell = {
            "framework": record.title,
            "model": record.model,
            "device": DEVICE_NAMES[record.device],
            "precision": PRECISIONS[record.precision].title,
        }
        told = {
            EIGHT_BITS: share,
            "images": accuracy.images,
            "accuracy %": accuracy.accuracy_percent,
            "points": found.difference,
            INTERVAL: f"{found.low:+.2f} to {found.high:+.2f}",
            "p": found.p,
            "so": "cannot tell" if found.p > CHANCE else "gains" if found.difference > 0 else "loses",
        }
        row = rows.setdefault((*cell.values(), share, accuracy.model_dump_json()), cell | {"batch": ""} | told)
        row["batch"] += f"{', ' if row['batch'] else ''}{record.batch_size}"
    return _without_lone_device(pd.DataFrame(rows.values()))


def costs(records: Iterable[Record]) -> pd.DataFrame:
    """Return what each row takes beside time: to export and load (s), on disk (MB), GPU memory, energy per image (mJ).

    A load is told where the whole start was timed alone. A backend that times kernels is always exported alone, so its
    export proves nothing of its load where no other framework has one. A column that nothing was measured for is left
    out, so are rows that were not measured.
    """
    records = [record for record in records if record.ok and record.build]
    alone = {kind: _started_alone(select(records, device=kind)) for kind in DEVICE_NAMES}
    rows = [
        {
            "framework": record.title,
            "model": record.model,
            "device": DEVICE_NAMES[record.device],
            "batch": record.batch_size,
            "precision": PRECISIONS[record.precision].title,
            "export, s": record.build.export_s,
            "load, s": record.build.load_s if record.title in alone[record.device] and record.build.start_s else None,
            "file MB": record.build.artifact_mib * BYTES_PER_MIB / 1e6,
            "GPU memory MiB": record.gpu_memory_mib,
            "mJ per image": record.load.energy_mj_per_image if record.load else None,
        }
        for record in records
        if record.build
    ]
    return _without_lone_device(pd.DataFrame(rows).dropna(axis="columns", how="all"))


def _started_alone(records: Sequence[Record]) -> set[str]:
    """Return the frameworks whose starts were timed; none where it is one of several, which was exported alone."""
    timed = {record.title for record in records if record.build and record.build.start_s is not None}
    return set() if len(timed) == 1 and len({record.title for record in records}) > 1 else timed


def _without_lone_device(table: pd.DataFrame) -> pd.DataFrame:
    return table if len(table) and table["device"].nunique() > 1 else table.drop(columns="device", errors="ignore")


def reference_table(model: str) -> pd.DataFrame:
    """Return what the project this course grew from measured for ``model`` at batch 1 on a Quadro T2000."""
    with resources.files("inference_lib.report").joinpath("reference_quadro_t2000.csv").open() as file:
        table = pd.read_csv(file)
    table = table[table["model"] == model].drop(columns="model")
    return table.rename(
        columns={
            "accuracy_percent": "accuracy %",
            "fps": "FPS",
            "gpu_memory_mib": "GPU memory MiB",
            "gpu_utilization_percent": "GPU busy %",
        }
    )


def reference_rows(framework: str) -> pd.DataFrame:
    """Return what that project measured for ``framework``, and its FPS as a multiple of PyTorch's."""
    found = []
    for model in MODELS:
        table = reference_table(model)
        pytorch = table[table["framework"] == "PyTorch"].set_index("precision")["FPS"]
        rows = table[table["framework"] == framework]
        found.append(rows.assign(model=model, **{"times PyTorch": rows["FPS"] / rows["precision"].map(pytorch)}))
    return pd.concat(found)[["model", "precision", "accuracy %", "FPS", "GPU memory MiB", "times PyTorch"]]


def show_table(
    table: pd.DataFrame, caption: str = "", formats: dict[str, str] | None = None, notes: Iterable[str] = ()
) -> HTML:
    """Return ``table`` as HTML: numbers formatted and right-aligned, gaps shown as a dash, ``notes`` numbered below it.

    Columns may have two levels; formats go by the lower one.
    """
    lowest = {name: str(name[-1] if isinstance(name, tuple) else name) for name in table.columns}
    wanted = {LARGEST: _form(LARGEST)} | {last: _form(last) for last in lowest.values()} | (formats or {})
    known = {name: wanted[last] for name, last in lowest.items() if wanted[last]}
    numbers = [n for n, last in lowest.items() if last == INTERVAL or pd.api.types.is_numeric_dtype(table[n])]
    styled = (
        Styler(table, cell_ids=False, uuid=f"{zlib.crc32(caption.encode()):x}")
        .format(known, na_rep=MISSING, escape="html")
        .format(wanted[LARGEST], na_rep=NOT_A_NUMBER, subset=[n for n, last in lowest.items() if last == LARGEST])
        .hide(axis="index")
        .set_caption(html.escape(caption, quote=False))
        .set_td_classes(pd.DataFrame("number", index=table.index, columns=table.columns)[numbers])
        .set_table_attributes('class="measured"')
    )
    page = styled.to_html().replace('<style type="text/css">\n</style>\n', "")
    below = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    listed = f'<ol class="measured-notes">{below}</ol>' if below else ""
    return HTML(f'<div class="measured-table">{page}</div>{listed}')


def show_scoreboard(records: Sequence[Record], model: str, caption: str) -> HTML:
    """Return the scoreboard of ``model`` at batch 1 as HTML, a row for every record, notes on single rows below it."""
    mine = [record for record in records if record.model == model and record.batch_size == 1]
    marks, notes = noted(mine)
    table = scoreboard(mine, model)
    if any(marks):
        table["note"] = [mark or None for mark in marks]
    return show_table(table, caption, notes=notes)


def _form(name: str) -> str | None:
    """Return the number format of a column by its name, or by the unit at the name's end: ``load, s``."""
    by_unit = next((form for unit, form in UNIT_FORMATS.items() if name.endswith(unit)), None)
    return SCOREBOARD_FORMATS.get(name, by_unit)


def text_table(table: pd.DataFrame, form: str = "simple") -> str:
    """Return ``table`` for a terminal, or in Markdown (``pipe``): a gap is a dash, numbers are right-aligned."""
    shown, numbers = table.astype(object), [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    for name in table.columns:
        text = _form(str(name)) or "{}"
        shown[name] = [MISSING if pd.isna(value) else text.format(value) for value in table[name]]
    sides = ["right" if number else "left" for number in numbers]
    return shown.to_markdown(index=False, tablefmt=form, disable_numparse=True, colalign=sides)


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
    """Return how many of the first run's measured rows the second one measured, in words: ``"6 of the 9 rows"``."""
    measured = [record for record in records if record.ok]
    first, second, *_ = ({cell(record) for record in select(measured, run=run)} for run in runs_of(measured))
    return f"{len(first & second)} of the {len(first)} rows" if first - second else f"all {len(first)} rows"


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
