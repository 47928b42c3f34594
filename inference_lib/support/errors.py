"""The one exception that the command line and the chapters show as a single line."""


class CourseError(Exception):
    """Something the reader can mend: the message is one line that names the cause and the remedy."""


def unknown_name(kind: str, name: str, valid: list[str] | tuple[str, ...]) -> CourseError:
    """Return the error for a name that is not one of the valid ones, which it lists."""
    return CourseError(f"unknown {kind} {name!r}; choose one of: {', '.join(valid)}")


def first_line(text: str, longest: int = 300) -> str:
    """Return the first line of ``text`` that says something, cut to ``longest`` characters."""
    lines = (line.strip() for line in text.splitlines())
    return next((line[:longest] for line in lines if line), "")
