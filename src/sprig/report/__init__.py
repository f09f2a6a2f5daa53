"""Views of a run: one HTML file, a terminal table, several runs side by side. Reads records, computes nothing."""

from sprig.report.compare import compare_rows, compare_table
from sprig.report.html import render_html
from sprig.report.table import render_table

__all__ = ["compare_rows", "compare_table", "render_html", "render_table"]
