"""HTML pages that load nothing: every text escaped, style and script allowed by their hashes alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("page.css")
"""The style that all pages share."""

HEAD = Path(__file__).with_name("head.html")
"""What stands before the body of all pages, which include it: their policy and title."""


def render(
    template: Path,
    *,
    style: Path | None = None,
    script: Path | None = None,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    tests: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """A page from a Jinja template, which gets ``values``, ``style`` and ``script`` with their digests.

    Args:
        template: the page, which sets or is given a ``title`` and includes ``head.html``, whose
            Content-Security-Policy allows the style and the script alone.
        style: the page's own style, after the shared one.
        script: the page's script.
        filters: of the template.
        tests: of the template.
        values: what the template shows; escaped unless marked as safe.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader({HEAD.name: HEAD.read_text("utf-8")}),
    )
    environment.filters.update(filters or {})
    environment.tests.update(tests or {})
    looks = "\n".join(path.read_text("utf-8") for path in (STYLE, style) if path)
    runs = script.read_text("utf-8") if script else ""
    return environment.from_string(template.read_text("utf-8")).render(
        style=Markup(looks),
        script=Markup(runs),
        style_digest=_digest(looks),
        script_digest=_digest(runs),
        **values,
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
