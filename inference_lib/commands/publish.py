"""Make the published edition from chapters and records of a GPU machine."""

import argparse

from inference_lib.commands import options as common
from inference_lib.support import paths


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--executed", type=common.folder, default=paths.BUILD / "executed", help="executed chapters")
    parser.add_argument("--records", type=common.folder, default=paths.BUILD / "records", help="their records")
    parser.add_argument("--any-profile", action="store_true", help="publish what is quick or a CPU's, too")
    parser.add_argument("--readme", action="store_true", help="publish nothing, write the README's results anew")


def run(options: argparse.Namespace) -> None:
    """Publish, and name the chapters."""
    from inference_lib.course import edition

    if options.readme:
        edition.update_readme()
    else:
        names = edition.publish(options.executed, options.records, options.any_profile, say=common.say)
        print(f"published {', '.join(names)}")
