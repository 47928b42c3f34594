"""The command line of the course: ``python -m inference_lib COMMAND``; ``--help`` lists the commands."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference_lib.support import environment
from inference_lib.support.errors import CourseError

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143

OF_THE_MACHINE = {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EPERM, errno.EROFS}
"""What an operating system refuses, and no code of ours can mend."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. An error is one line on standard error."""
    environment.tolerate()
    signal.signal(signal.SIGTERM, _end)
    try:
        status = _run_command(arguments)
        sys.stdout.flush()  # a disk that is full says so here, not while the interpreter ends
        return status
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_ERROR
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        _drop_output()
        where = error.filename or "the output"
        print(f"error: cannot use {where}: {error.strerror}; free some space or choose another place", file=sys.stderr)
        return EXIT_ERROR


def _run_command(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as done:  # help was printed, or what is wrong with the arguments
        return int(done.code or 0)
    return options.command(options) or 0


def _end(*_: object) -> None:
    """End by an exception when asked to terminate, so that every process that was started is ended on the way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(EXIT_TERMINATED)


def _drop_output() -> None:
    """Let what is still to be printed go nowhere: the interpreter prints it when it ends, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _data(options: argparse.Namespace) -> None:
    from inference_lib.support.paths import DATA
    from inference_lib.zoo.fashion_mnist import check, ensure_fashion_mnist

    folder = ensure_fashion_mnist(options.directory or DATA)
    check(folder)
    print(folder)


def _train(options: argparse.Namespace) -> None:
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.zoo.training import train

    for model in options.models:
        result = train(
            model,
            epochs=options.epochs,
            device=resolve_device(options.device),
            seed=options.seed,
            limit=options.limit,
            directory=options.output,
        )
        print(
            f"{model}: validation {result.validation_accuracy:.2f} %, test {result.test_accuracy:.2f} %, "
            f"weights in {options.output}"
        )


def _export(options: argparse.Namespace) -> None:
    from inference_lib.backends import get_backend
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.seam import Workload, build
    from inference_lib.support.failures import keep, reason_of
    from inference_lib.support.files import shown

    device = resolve_device(options.device)
    workload = Workload(options.model, options.batch_size, options.precision, device)
    backend = get_backend(options.backend)
    available, support = backend.availability(device), backend.supports(workload)
    if not available.usable:
        raise CourseError(f"{backend.title} cannot be used here: {available.reason}; {available.remedy}")
    if not support.ok:
        raise CourseError(f"{backend.title} cannot export {workload}: {support.reason}")
    try:
        artifact = build(backend, workload, options.output)
    except (CourseError, OSError):
        raise
    except Exception as error:  # whatever a framework raises
        said = f"{backend.title} cannot export {workload}: {reason_of(error)}"
        raise CourseError(f"{said}; the whole text is in {shown(keep(error))}") from error
    seconds = artifact.manifest.get("build_seconds")
    took = "exported beside others before" if seconds is None else f"{seconds:.1f} s"
    print(f"{artifact.directory}  {artifact.size_bytes / 2**20:.1f} MiB, {took}")


def _benchmark(options: argparse.Namespace) -> int:
    from inference_lib.backends import BACKENDS
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.measure.benchmark import Session, whole_grid
    from inference_lib.measure.exports import export_missing
    from inference_lib.measure.plan import grid, why_not
    from inference_lib.measure.profiles import get_profile
    from inference_lib.records.store import RecordStore
    from inference_lib.seam import FASHION_MNIST, MODELS, Device

    backends, models = options.backend or list(BACKENDS), options.model or list(MODELS)
    device, profile = Device.of(resolve_device(options.device)), get_profile(options.profile)
    if options.precision or options.batch_size:
        rivals = grid(backends, models, device, profile, options.precision, options.batch_size)
    else:
        rivals = whole_grid(backends, models, device, profile)
    store = RecordStore(options.records)
    store.check_writable()
    FASHION_MNIST.ensure()
    if options.export_only:
        failed = export_missing(
            [rival for rival in rivals if why_not(rival) is None], _say, timed=not options.untimed_exports
        )
        print("\n".join(f"{key}: {why}" for key, why in failed.items()) or "everything is exported")
        return EXIT_ERROR if failed else 0
    session = Session(profile, store, options.run, not options.again, _say)
    session.time_exports, session.rounds_only = not options.untimed_exports, options.rounds_only
    session.measure(rivals)
    records = [session.records[rival] for rival in rivals]
    print(_formatted(records, options.format))
    return EXIT_ERROR if any(r.status in ("failed", "out_of_memory") for r in records) else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _replicate(options: argparse.Namespace) -> int:
    import json

    from inference_lib.records.replication import replication
    from inference_lib.records.store import RecordStore, select

    first, second = (select(RecordStore(folder).read(), run=run) for folder, run in _two_runs(options))
    found = replication(first, second)
    if options.format == "json":
        print(json.dumps(found, indent=1))
    else:
        from inference_lib.report.tables import text_replication

        print(text_replication(found))
    worst = max(_percent(found[kind]["contradicted"], found[kind]["claims"]) for kind in found)
    return EXIT_ERROR if worst > options.max_contradicted else 0


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _two_runs(options: argparse.Namespace) -> list[tuple[Path, str]]:
    """Return folder and name of two runs: two of one folder, or the first of each of two folders."""
    from inference_lib.records.store import RecordStore

    folders = options.records
    found = [(folder, run) for folder in folders for run in RecordStore(folder).runs()]
    if len(folders) == 2:
        found = [next(pair for pair in found if pair[0] == folder) for folder in folders if RecordStore(folder).runs()]
    if len(found) < 2:
        named = " and ".join(str(folder) for folder in folders)
        raise CourseError(f"{named}: two runs are needed; measure again with `benchmark --run 2`")
    return found[:2]


def _report(options: argparse.Namespace) -> None:
    from inference_lib.records.store import RecordStore

    records = RecordStore(options.records).read()
    if not records:
        raise CourseError(f"no records in {options.records}; make some with `python -m inference_lib benchmark`")
    chosen = [r for r in records if options.batch_size is None or r.batch_size in options.batch_size]
    print(_formatted(chosen, options.format))


def _formatted(records: Sequence[Any], kind: str) -> str:
    from inference_lib.report.tables import flat_table, markdown_scoreboards, text_scoreboards

    if kind == "csv":
        return flat_table(records).to_csv(index=False).rstrip("\n")
    if kind == "json":
        return flat_table(records).to_json(orient="records", indent=1)
    return markdown_scoreboards(records) if kind == "markdown" else text_scoreboards(records)


def _run(options: argparse.Namespace) -> int:
    from inference_lib.course import run as course

    failed = course.run_chapters(
        options.chapters or None,
        profile=options.profile,
        device=options.device,
        force=options.again,
        grid=not options.no_grid,
    )
    return EXIT_ERROR if failed else 0


def _book(options: argparse.Namespace) -> int:
    from inference_lib.course import book
    from inference_lib.course import run as course

    if options.edition == "local":
        course.run_chapters(profile=options.profile, device=options.device, grid=not options.no_grid)
    broken = book.render(options.edition).broken
    if broken:
        print(f"without their results, see their pages: {', '.join(broken)}", file=sys.stderr)
    return EXIT_ERROR if broken else 0


def _publish(options: argparse.Namespace) -> None:
    from inference_lib.course import book

    names = book.publish(options.executed, options.records, options.any_profile)
    print(f"published {', '.join(names)}")


def _doctor(options: argparse.Namespace) -> None:
    from inference_lib.doctor import report

    print(report())


def _parser() -> argparse.ArgumentParser:
    from inference_lib.support import paths

    parser = argparse.ArgumentParser(
        prog="python -m inference_lib", description="Measure inference, run the chapters, make the book."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=run)
        return sub

    def choices(
        sub: argparse.ArgumentParser, device: bool = True, profile: bool = False, records: bool = False
    ) -> None:
        if device:
            sub.add_argument("--device", default="auto", help="auto, cpu or cuda")
        if profile:
            sub.add_argument("--profile", default="quick", help="quick or full")
        if records:
            sub.add_argument("--records", type=Path, default=paths.BUILD / "records", help="folder of records")
            sub.add_argument("--format", choices=("table", "markdown", "csv", "json"), default="table")

    data = command("data", _data, "find or download Fashion-MNIST and check it")
    data.add_argument("--directory", type=Path, help="where to keep it")

    train = command("train", _train, "train models and store their weights")
    train.add_argument("models", nargs="+", metavar="MODEL")
    train.add_argument("--epochs", type=int)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--limit", type=int, help="use so many training images only")
    train.add_argument("--output", type=Path, default=paths.BUILD / "trained", help="folder of the weights")
    choices(train)

    export = command("export", _export, "export one model with one framework")
    export.add_argument("backend", metavar="BACKEND")
    export.add_argument("model", metavar="MODEL")
    export.add_argument("--precision", default="fp32")
    export.add_argument("--batch-size", type=int, default=1)
    export.add_argument("--output", type=Path, default=paths.ARTIFACTS)
    choices(export)

    bench = command("benchmark", _benchmark, "measure frameworks and write records")
    for name, kind in (("backend", str), ("model", str), ("precision", str), ("batch-size", int)):
        bench.add_argument(f"--{name}", type=kind, nargs="+", help="one or more; default: all of the profile's")
    bench.add_argument(
        "--export-only", action="store_true", help="export what is missing, side by side; measure nothing"
    )
    bench.add_argument("--untimed-exports", action="store_true", help="export all side by side; no export times then")
    bench.add_argument("--rounds-only", action="store_true", help="only what claims rest on: for a second run")
    bench.add_argument("--run", default="1", help="name of this pass over the grid; runs are compared with each other")
    bench.add_argument("--again", action="store_true", help="measure what was measured before, too")
    choices(bench, profile=True, records=True)

    run = command("run", _run, "execute chapters that are not up to date")
    run.add_argument("chapters", nargs="*", metavar="CHAPTER")
    run.add_argument("--again", action="store_true", help="execute up-to-date chapters, too")
    no_grid = "do not measure the whole grid before all chapters are executed"
    run.add_argument("--no-grid", action="store_true", help=no_grid)
    choices(run, profile=True)

    book = command("book", _book, "execute the chapters here and render the book")
    book.add_argument("--edition", choices=("local", "published"), default="local")
    book.add_argument("--no-grid", action="store_true", help=no_grid)
    choices(book, profile=True)

    publish = command("publish", _publish, "make the published edition from chapters and records of a GPU machine")
    publish.add_argument("--executed", type=Path, default=paths.BUILD / "executed", help="folder of executed chapters")
    publish.add_argument("--records", type=Path, default=paths.BUILD / "records", help="folder of their records")
    publish.add_argument("--any-profile", action="store_true", help="publish what is quick or a CPU's, too")

    report = command("report", _report, "print the scoreboard of a folder of records")
    report.add_argument("--batch-size", type=int, nargs="+", help="of these batch sizes alone")
    choices(report, device=False, records=True)

    replicate = command("replicate", _replicate, "compare two runs of one grid: which claims held?")
    replicate.add_argument(
        "--records", type=Path, nargs="+", default=[paths.BUILD / "records"], help="one folder with two runs, or two"
    )
    replicate.add_argument("--format", choices=("table", "json"), default="table")
    replicate.add_argument(
        "--max-contradicted", type=float, default=2.0, metavar="PERCENT", help="exit with 1 above (default: 2)"
    )

    command("doctor", _doctor, "say which frameworks work here, and what would mend the others")
    return parser
