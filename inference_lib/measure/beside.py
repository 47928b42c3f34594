"""What workers are forked from, started before there is one: it imports while this process imports, or prepares."""

from multiprocessing import forkserver

PRELOAD = ("inference_lib.measure.preload",)


def import_beside() -> None:
    """Start what workers are forked from, unless it runs. It ends with this process."""
    forkserver.set_forkserver_preload(list(PRELOAD))
    forkserver.ensure_running()
