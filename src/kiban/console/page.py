"""A page in one file: its style and scripts within, and a policy that allows those and nothing else."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kiban.console.words import Both, duration

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, content: dict[str, Any], scripts: tuple[str, ...], images: bool = False) -> str:
    """`template` filled with `content`. `images`: whether it shows some, as data within it."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"t": Both, "duration": duration}
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; style-src '{_source_hash(style)}'; script-src '{_source_hash(script)}'; "
        f"{'img-src data:; ' if images else ''}base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template)
    return page.render(content, style=Markup(style), script=Markup(script), policy=policy)


def _source_hash(content: str) -> str:
    """As a content security policy names an inline element: https://www.w3.org/TR/CSP3/#grammardef-hash-source."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
