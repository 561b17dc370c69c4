"""Great Expectations' pages without the remote hosts its own templates ask for styles, scripts and fonts.

Its site builder and its page view can be replaced by configuration; these replace them. The pages keep its content
blocks and lose the navigation, which needs scripts; `validations.docs` writes the index of everything.
"""

from __future__ import annotations

from typing import Any

from great_expectations.render.renderer.site_builder import SiteBuilder
from great_expectations.render.view import DefaultJinjaPageView
from jinja2 import ChoiceLoader, DictLoader

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Great Expectations</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 1rem auto; padding: 0 1rem; }
table { border-collapse: collapse; max-width: 100%; } td, th { padding: .2rem .6rem; border: 1px solid #8884;
text-align: left; vertical-align: top; overflow-wrap: anywhere; } li { list-style: none; } ul { padding: 0; }
.hide-succeeded-validations-column-section-if-empty, .progress, button { display: none; }
</style>
{% for section in sections %}{% set section_loop = loop -%}{% include 'section.j2' %}{% endfor %}
</html>"""


class LocalPageView(DefaultJinjaPageView):  # type: ignore[misc]  # Great Expectations is untyped here
    """A page of a suite or of a result that asks no other host for anything."""

    def __init__(
        self, custom_styles_directory: str | None = None, custom_views_directory: str | None = None
    ) -> None:
        super().__init__(custom_styles_directory, custom_views_directory)
        self.env.loader = ChoiceLoader([DictLoader({"page.j2": _PAGE}), self.env.loader])


class LocalSiteBuilder(SiteBuilder):  # type: ignore[misc]
    """Pages alone: no index, which would read the newest results again on every run, and no 4 MB of pictures."""

    def build(
        self,
        resource_identifiers: Any = None,
        *,
        build_index: bool = True,  # noqa: ARG002  part of the call
    ) -> tuple[str, dict[str, Any]]:
        """Write the pages of what the run made."""
        for section in self.site_section_builders.values():
            section.build(resource_identifiers=resource_identifiers)
        return self.get_resource_url(only_if_exists=False), {}
