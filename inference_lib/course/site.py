"""Where the book lives on the web: its address and its repository, and what follows from them.

Both are unknown until somebody says them (``INFERENCE_SITE``, ``INFERENCE_REPOSITORY``, as the workflows under
``.github`` do). Without an address there is no Open Graph; without a repository no button leads to one: no dead links.
"""

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from inference_lib.course.contents import Chapter
from inference_lib.support.errors import CourseError

TAKEN_AWAY = "downloads"
"""The folder, in what is rendered, with each chapter as a notebook without outputs and as a script."""

COLAB = "https://colab.research.google.com/github"


@dataclass(frozen=True)
class Site:
    """The address of the rendered book and that of its repository, each without a final slash; empty: not known."""

    address: str = ""
    repository: str = ""
    branch: str = "main"

    @classmethod
    def of_environment(cls) -> "Site":
        """Return what the environment says.

        Raises:
            CourseError: an address is none.

        """
        found = {name: os.environ.get(name, "").rstrip("/") for name in ("INFERENCE_SITE", "INFERENCE_REPOSITORY")}
        for name, address in found.items():
            if address and (urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc):
                raise CourseError(f"{name} is no address of the web: {address}; begin it with https://, or unset it")
        branch = os.environ.get("INFERENCE_BRANCH") or "main"
        return cls(found["INFERENCE_SITE"], found["INFERENCE_REPOSITORY"], branch)

    @property
    def on_github(self) -> bool:
        """Whether the repository is on GitHub, from which Colab opens notebooks."""
        return urlsplit(self.repository).netloc == "github.com"


PREVIEW = "opening.png"
"""The picture, among the static files, that a message with a link to the site shows."""


def configured(content: bytes, site: Site, preview: str = "") -> bytes:
    """Return Jupyter Book's configuration with what follows from the site's addresses.

    ``preview`` says in words what the picture of that name shows; without it there is none.
    """
    if not (site.address or site.repository):
        return content
    found: dict[str, Any] = yaml.safe_load(content)
    sphinx = found["sphinx"]
    if site.address:
        found["html"]["baseurl"] = f"{site.address}/"
        sphinx["extra_extensions"] += ["sphinxext.opengraph", "notfound.extension"]
        sphinx["config"] |= {
            "ogp_site_url": f"{site.address}/",
            "ogp_site_name": found["title"],
            "ogp_image": f"{site.address}/_static/{PREVIEW}" if preview else "",
            "ogp_image_alt": preview or False,
            "ogp_social_cards": {"enable": False},
            "notfound_urls_prefix": f"{urlsplit(site.address).path}/",
            "notfound_context": {"title": "No such page", "body": NO_SUCH_PAGE},
        }
    if site.repository:
        # No button for the source of a page: a chapter's is not what is rendered; take_away links to it.
        sphinx["config"]["html_theme_options"] |= {
            "repository_url": site.repository,
            "repository_branch": site.branch,
            "use_repository_button": True,
            "use_issues_button": True,
        }
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True).encode()


NO_SUCH_PAGE = (
    "<h1>No such page</h1><p>The address leads nowhere in this edition. The contents are on the left; "
    "the search (the magnifying glass) also finds error messages.</p>"
)


def take_away(chapter: Chapter, site: Site, published: bool) -> str:
    """Return the lines that end a chapter's page: the chapter as a notebook and as a script, and where it lives.

    Colab opens what the repository holds, so only a ``published`` chapter.
    """
    name = chapter.name
    said = (
        f"This chapter without its outputs: {{download}}`notebook <../{TAKEN_AWAY}/{name}.ipynb>`, "
        f"{{download}}`script <../{TAKEN_AWAY}/{name}.py>`"
    )
    if site.on_github:
        said += f", [source]({site.repository}/blob/{site.branch}/notebooks/{name}.py)"
    if site.on_github and published:
        path = f"{urlsplit(site.repository).path}/blob/{site.branch}/book/published/{name}.ipynb"
        install = f"%pip install 'inference-lib[book,onnx] @ git+{site.repository}@{site.branch}'"
        said += f". With its outputs, [in Colab]({COLAB}{path}); there, run `{install}` first"
    return f"---\n\n{said}."
