"""Records, and the tables, figures and words made from them."""

from inference_lib.records.store import select
from inference_lib.report.glue import glue
from inference_lib.report.source import show_source

__all__ = ["glue", "select", "show_source"]
