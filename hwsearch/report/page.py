"""One HTML page without scripts or outside files."""

from __future__ import annotations

from html import escape

# No script, no outside file: not even where an escape is forgotten.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: 2px 8px; text-align: right; white-space: nowrap; }
tr:nth-child(even) { background: #f4f4f4; } svg text { font: 12px sans-serif; }
"""


def html_page(title: str, body: str) -> str:
    """`title` is escaped here, `body` is HTML."""
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\"><title>{escape(title)}</title>"
        f"<style>{STYLE}</style>{body}</html>\n"
    )
