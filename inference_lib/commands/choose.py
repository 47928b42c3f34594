"""Say which measured row serves a request best, and why each other one does not."""

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from inference_lib.commands import options as common
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.records.record import Record
    from inference_lib.report.choose import Choice


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True)
    common.model_options(parser, pictures=False)
    parser.add_argument("--goal", choices=("latency", "throughput"), default="latency")
    parser.add_argument("--max-latency-ms", type=common.positive, metavar="MS", help="of the median batch")
    parser.add_argument("--max-p99-ms", type=common.positive, metavar="MS", help="of 99 in 100 batches")
    parser.add_argument("--min-accuracy", type=common.not_negative, metavar="PERCENT")
    parser.add_argument("--max-memory-mib", type=common.positive, metavar="MIB", help="GPU memory of the process")
    parser.add_argument("--no-python", action="store_true", help="what a program without Python can load")
    parser.add_argument("--allow-int8", action="store_true", help="rows in INT8 and FP8, too")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="on this kind of device alone")
    parser.add_argument("--run", help="which pass over the grid (default: the first in the folder)")
    common.records(parser)
    parser.add_argument("--json", action="store_true", help="for a program")


def run(options: argparse.Namespace) -> int:
    """Print a ranking for each machine and profile that has records; 1 where no row meets the request."""
    from inference_lib.report.choose import choose

    limits = {
        "max_p50_ms": options.max_latency_ms,
        "max_p99_ms": options.max_p99_ms,
        "min_accuracy_percent": options.min_accuracy,
        "max_memory_mib": options.max_memory_mib,
        "without_python": options.no_python,
        "allow_int8": options.allow_int8,
    }
    shelves = _shelves(options)
    everything = [record for shelf in shelves.values() for record in shelf]
    model = _measured(options, everything)
    choose(everything, model)  # a model that nobody measured is a mistake; on one machine it may be missing
    choices = {
        name: choose(mine, model, goal=options.goal, **limits)
        for name, shelf in shelves.items()
        if (mine := [record for record in shelf if record.model == model])
    }
    if options.json:
        print(json.dumps([_as_data(*each, options.goal) for each in choices.items()], indent=1))
    else:
        print("\n\n".join(_as_text(*each, options) for each in choices.items()))
    return 0 if any(choice.best for choice in choices.values()) else common.EXIT_ERROR


def _measured(options: argparse.Namespace, records: Iterable["Record"]) -> str:
    """Return what records call the model: as it was typed, by its title, or, for a reader's own, as it is found."""
    called = {title: record.model for record in records for title in (record.model_title, record.model)}
    if options.model in called or not {":", "."} & set(options.model):
        return called.get(options.model, options.model)
    name = common.find_models(options, [options.model])[0].name
    on_pictures = sorted({each for each in called.values() if each.startswith(f"{name}-")})
    if name in called or not on_pictures:
        return name
    if len(on_pictures) > 1:
        raise CourseError(
            f"{name} was measured on several folders of pictures; choose one of: {', '.join(on_pictures)}"
        )
    return on_pictures[0]


Shelf = tuple[str, str, str]
"""Machine, profile and run: only what shares them is ranked."""


def _shelves(options: argparse.Namespace) -> dict[Shelf, list["Record"]]:
    from inference_lib.records.pairs import of_all_pictures
    from inference_lib.records.runs import runs_of

    records = common.read_records(options.records)
    run = options.run or runs_of(records)[0]
    found: dict[Shelf, list[Record]] = {}
    for record in of_all_pictures(records):
        if record.run == run and options.device in (None, record.device):
            found.setdefault((record.machine.name(record.device), record.profile, run), []).append(record)
    if not found:
        raise CourseError(f"no records of run {run} on {options.device or 'any device'} in {options.records}")
    return found


NUMBERS = ("latency_p50_ms", "latency_p99_ms", "fps", "accuracy_percent", "gpu_memory_mib")
"""What is told of a row that meets the request, as the flat table calls it."""


def _rows(choice: "Choice", goal: Any) -> Iterable[dict[str, Any]]:
    """Yield what is told of each row that meets the request, the best first."""
    from inference_lib.backends import SERVED_WITHOUT_PYTHON
    from inference_lib.report.choose import advantage, images_per_s, places
    from inference_lib.report.flat import flat_row

    for place, record in zip(places(choice.ranked, goal), choice.ranked, strict=True):
        beside, flat = advantage(choice.ranked[0], record, goal), flat_row(record)
        yield (
            _cell(record)
            | {"place": place}
            | {name: flat[name] for name in NUMBERS}
            | {
                "images_per_s": images_per_s(record),
                "without_python": SERVED_WITHOUT_PYTHON.get(record.backend),
                "of_the_best": [beside.value, beside.low, beside.high],
                "flags": record.flags,
            }
        )


def _cell(record: "Record") -> dict[str, Any]:
    names = ("backend", "precision", "batch_size")
    return {name: getattr(record, name) for name in names}


def _as_data(shelf: Shelf, choice: "Choice", goal: str) -> dict[str, Any]:
    out = [_cell(record) | {"reason": reason} for record, reason in choice.excluded]
    named = dict(zip(("machine", "profile", "run"), shelf, strict=True))
    return named | {"goal": goal, "ranked": list(_rows(choice, goal)), "excluded": out}


def _as_text(shelf: Shelf, choice: "Choice", options: argparse.Namespace) -> str:
    import pandas as pd

    from inference_lib.records.statistics import LEAST_INVOCATIONS
    from inference_lib.report.layout import text_table
    from inference_lib.report.words import label

    rows = list(_rows(choice, options.goal))
    tied = {row["place"] for row in rows if sum(other["place"] == row["place"] for other in rows) > 1}
    table = [
        {
            "place": f"{row['place']}{' (tie)' if row['place'] in tied else ''}",
            "framework": label(record),
            "batch": str(record.batch_size),
            "latency ms": row["latency_p50_ms"],
            "p99 ms": row["latency_p99_ms"],
            "images/s": row["images_per_s"],
            "accuracy %": row["accuracy_percent"],
            "GPU memory MiB": row["gpu_memory_mib"],
            "loaded by": row["without_python"] if options.no_python else None,
            "note": "; ".join(row["flags"]) or None,
        }
        for row, record in zip(rows, choice.ranked, strict=True)
    ]
    title = "{}, {} profile, run {}".format(*shelf)
    parts = [f"{title}: {f'by {options.goal}' if rows else 'no row meets the request'}"]
    if rows:
        parts.append(text_table(pd.DataFrame(table).dropna(axis="columns", how="all")))
    if any(len(record.invocations) < LEAST_INVOCATIONS for record in choice.ranked):
        parts.append("An order, and no verdicts: that takes three invocations (--profile full).")
    out = [f"- {label(record)}, batch {record.batch_size}: {reason}" for record, reason in choice.excluded]
    return "\n".join([*parts, *(["Out:", *out] if out else [])])
