"""What no output that is kept or published may name: places of one machine, and hosts that only it can reach."""

import re

READERS_HOSTS = {
    "arxiv.org",
    "docs.nvidia.com",
    "docs.pytorch.org",
    "github.com",
    "onnxruntime.ai",
    "pytorch.org",
    "www.w3.org",
}
"""A reader can open them; any other host in an output is a machine's or a package registry's."""

EVERYBODY_S = ("/usr/", "/proc/", "/sys/", "/dev/", "/etc/", "/_src/", "/onnxruntime_src/")
"""Paths of every machine, and those of the frameworks' builders in their messages."""

PICTURE = re.compile(r"data:image/[^\"']*")
PATH = re.compile(r"(?<![\w.:/~<-])/(?:[\w.@+-]+/)+[\w.@+-]+")
URL = re.compile(r"\bhttps?://([\w-]+(?:\.[\w-]+)*)")


def places_in(text: str) -> list[str]:
    """Return the absolute paths and the hosts in ``text`` that mean nothing elsewhere."""
    text = PICTURE.sub("", text)
    paths = [found for found in PATH.findall(text) if not found.startswith(EVERYBODY_S)]
    return paths + [host for host in URL.findall(text) if host not in READERS_HOSTS]
