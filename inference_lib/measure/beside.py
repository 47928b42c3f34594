"""What workers are forked from, started before there is one: it imports while this process imports, or prepares."""

from multiprocessing import forkserver

PRELOAD = ("inference_lib.measure.preload",)


def import_beside(*more: str) -> None:
    """Start what workers are forked from, unless it runs. It ends with this process.

    It imports ``more`` modules, too; where it runs already, each process that is forked imports what it lacks.
    """
    forkserver.set_forkserver_preload([*PRELOAD, *more])
    forkserver.ensure_running()
