"""The report page, as rules see it: its section."""

from __future__ import annotations

import pydantic

from steps.report import page as report_page
from steps.workflow.section import Section


class Report(Section):
    """The report page results/report/index.html."""

    page: report_page.Settings = pydantic.Field(
        default=report_page.Settings(), description="how the page is made"
    )
