"""The status as a page: what zonerw does, and why, for a browser."""

import html

from actions.status import Document
from actions.text import tell
from exporter.version import version

_LINKS = {
    "/status": "The same as JSON",
    "/metrics": "Metrics",
    "/-/healthy": "Health of this program",
    "/-/ready": "Whether its first run has ended",
}


def page(its: Document) -> str:
    """Say how everything stands: in one line, and below it in all."""
    first, _, rest = tell(its).partition("\n")
    links = "\n".join(f'<li><a href="{path}">{title}</a></li>' for path, title in _LINKS.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>zonerw: {html.escape(first)}</title>
<style>pre {{ white-space: pre-wrap }}</style></head>
<body>
<h1>zonerw actions</h1>
<p><strong>{html.escape(first)}</strong></p>
<pre>{html.escape(rest)}</pre>
<ul>
{links}
</ul>
<p>Version {html.escape(version())}. To change something: <code>zonerw pin</code>,
<code>zonerw rewrite</code>.</p>
</body>
</html>
"""
