"""Whether published outputs still belong to the code that is there."""

import nbformat

from inference_lib.course.contents import COURSE, Course, chapters
from inference_lib.course.notebook import STAMP, code_hash, source_notebook


def stale_published(course: Course = COURSE) -> list[str]:
    """Return the published chapters whose outputs no longer belong to their code, or whose stamp is wrong."""
    stale = []
    for chapter in chapters(course):
        path = course.published / f"{chapter.name}.ipynb"
        if path.exists():
            published = nbformat.read(path, as_version=4)
            stamped = published.metadata.get(STAMP, {}).get("code_sha256")
            if not code_hash(source_notebook(chapter.source)) == code_hash(published) == stamped:
                stale.append(chapter.name)
    return stale
