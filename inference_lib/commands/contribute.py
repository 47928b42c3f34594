"""Pack what was measured here for the book, or check or add what another reader packed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.course.contribution import Contribution


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("out", nargs="?", type=Path, metavar="OUT.zip", help="the file to write")
    what.add_argument("--check", type=Path, metavar="FILE.zip", help="say whether a contribution would be believed")
    what.add_argument("--add", type=Path, metavar="FILE.zip", help="put its machine into book/published/machines")
    parser.add_argument("--name", default="", help="what to call the machine (default: its GPU's or CPU's name)")
    parser.add_argument("--by", default="", metavar="WHO", help="who measured; stands in the book")
    common.records(parser)


def run(options: argparse.Namespace) -> int:
    """Pack, check or add; 1, with a line for each reason, where it is not believed."""
    from inference_lib.course import parcel
    from inference_lib.course.contribution import problems
    from inference_lib.support.files import shown

    if options.out is None and (options.name or options.by):
        raise CourseError("--name and --by are packed with a contribution; to change them, pack it anew")
    if options.add:
        print(shown(parcel.add(options.add, paths.PUBLISHED / "machines")))
        return 0
    if options.check:
        found = parcel.unpack(options.check)
        return _told(found, problems(found))
    if options.out.suffix != ".zip":
        raise CourseError(f"{options.out} does not end in .zip, and a contribution does")
    records = parcel.without_own(common.read_records(options.records), common.say)
    found = parcel.of_this_machine(records, options.name, options.by)
    if left := len(records) - len(found.records):
        common.say(f"left out: {left} records of another profile, or of rows that only one of two runs tried")
    wrong = problems(found)
    if not wrong:
        parcel.pack(found, options.out)
    return _told(found, wrong)


def _told(found: "Contribution", problems: list[str]) -> int:
    for problem in problems:
        common.say(f"not believed: {problem}")
    if not problems:
        print(found.description())
    return common.EXIT_ERROR if problems else 0
