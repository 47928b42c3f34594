"""The one exception that the command line and the chapters show as a single line."""


class CourseError(Exception):
    """Something the reader can mend: the message is one line that names the cause and the remedy."""


def unknown_name(kind: str, name: str, valid: list[str] | tuple[str, ...]) -> CourseError:
    """Return the error for a name that is not one of the valid ones, which it lists."""
    return CourseError(f"unknown {kind} {name!r}; choose one of: {', '.join(valid)}")
