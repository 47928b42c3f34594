"""Execute the chapters here and render the book."""

import argparse

from inference_lib.commands import options as common


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--edition", choices=("local", "published"), default="local")
    parser.add_argument("--no-grid", action="store_true", help=common.NO_GRID)
    common.device(parser)
    common.profile(parser)


def run(options: argparse.Namespace) -> int:
    """Render an edition; 1 where a page lacks its results."""
    from inference_lib.course import kernels

    if options.edition == "local":
        kernels.prepare()  # it imports while this process does
    from inference_lib.course import book
    from inference_lib.course import run as course

    if options.edition == "local":
        course.run_chapters(profile=options.profile, device=options.device, grid=not options.no_grid)
    broken = book.render(options.edition).broken
    if broken:
        common.say(f"without their results, see their pages: {', '.join(broken)}")
    return common.EXIT_ERROR if broken else 0
