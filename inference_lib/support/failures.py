"""What is told of an error that others raised: one line, and a file where a line is not all of it."""

import traceback
from pathlib import Path

from inference_lib.support import paths
from inference_lib.support.errors import CourseError, cause_line
from inference_lib.support.files import write_atomically
from inference_lib.support.hashes import sha256_of


def reason_of(error: BaseException) -> str:
    """Return why something failed, in one line: ours word for word, others with their kind where the text needs it."""
    if isinstance(error, CourseError):
        return str(error)
    said, kind = cause_line(str(error)), type(error).__name__
    if said and isinstance(error, ValueError | RuntimeError):
        return said
    return f"{kind}: {said}" if said else kind


def keep(error: BaseException) -> Path:
    """Write the whole text of an error, with where it came from, to a file; the same message has the same file."""
    path = paths.BUILD / "failures" / f"{sha256_of([str(error).encode(errors='replace')])[:12]}.txt"
    write_atomically(path, "".join(traceback.format_exception(error)).encode(errors="replace"))
    return path


def told(error: BaseException) -> str:
    """Return why something failed; where that leaves out some of the message, the line names the file with all of it.

    The file's path is from the course's folder: the line goes to records, which hold no path of a machine.
    """
    reason = reason_of(error)
    if str(error).strip() in reason:
        return reason
    try:
        return f"{reason}; the whole text is in {keep(error).relative_to(paths.BUILD.parent)}"
    except OSError:  # a full disk may be what failed
        return reason
