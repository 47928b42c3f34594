"""The chapters and the book: executed, staged, rendered, published."""

from importlib.util import find_spec

from inference_lib.support.errors import CourseError

if missing := [name for name in ("ipykernel", "jupytext", "nbformat", "papermill") if find_spec(name) is None]:
    raise CourseError(
        f"{missing[0]} is not installed, and chapters need it; run `pip install -c constraints.txt -e .[book]`"
    )
