"""Execute chapters that are not up to date."""

import argparse

from inference_lib.commands import options as common


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER")
    parser.add_argument("--again", action="store_true", help="execute up-to-date chapters, too")
    parser.add_argument("--no-grid", action="store_true", help=common.NO_GRID)
    common.device(parser)
    common.profile(parser)


def run(options: argparse.Namespace) -> int:
    """Execute them; 1 where one failed."""
    from inference_lib.course import run as course

    failed = course.run_chapters(
        options.chapters or None,
        profile=options.profile,
        device=options.device,
        force=options.again,
        grid=not options.no_grid,
    )
    return common.EXIT_ERROR if failed else 0
