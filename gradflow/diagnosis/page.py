"""A diagnosis as a self-contained page."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from gradflow.diagnosis.ledger_html import book_html
from gradflow.diagnosis.letter import HEADLINES, over, said

if TYPE_CHECKING:
    from gradflow.diagnosis.finding import Finding
    from gradflow.diagnosis.verdict import Diagnosis

__all__ = ["body", "page"]

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h2{font-size:1.15rem;margin:1.5rem 0 .25rem}p{margin:.25rem 0}
pre{overflow-x:auto;padding:.5rem;border:1px solid #8886;border-radius:4px}
figure{margin:1rem 0;background:#fff}img{max-width:100%}.wide{overflow-x:auto}.numbers{font-size:.85rem}
"""


def page(diagnosis: Diagnosis) -> str:
    """Return a page that needs nothing else.

    Args:
        diagnosis: to be shown.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>gradflow: diagnosis</title><style>{_STYLE}</style></head><body>"
        f"<h1>{'Healthy' if diagnosis.healthy else 'Diagnosis'}</h1>{body(diagnosis)}{_figure(diagnosis)}</body></html>"
    )


def body(diagnosis: Diagnosis) -> str:
    """Return findings and ledger, for a page or a notebook.

    Args:
        diagnosis: to be shown.
    """
    found = "".join(_finding(k, finding) for k, finding in enumerate(diagnosis.findings, 1))
    told = found or f"<p>Healthy. {html.escape(diagnosis.book.summary)}</p>"
    scope = f"<p>{html.escape(diagnosis.scope)}</p>"
    return f'{told}{scope}<h2>Ledger</h2><div class="wide">{book_html(diagnosis.book)}</div>'


def _finding(number: int, finding: Finding) -> str:
    where = html.escape(", ".join(finding.layers[:6]) + (" …" if len(finding.layers) > 6 else ""))
    remedies = "".join(
        f"<li>{html.escape(r.what)}{f'<pre>{html.escape(r.code)}</pre>' if r.code else ''}</li>"
        for r in finding.remedies
    )
    numbers = "".join(f"<li>{html.escape(said(evidence))}</li>" for evidence in finding.evidence)
    return (
        f"<h2>{number}. {HEADLINES[finding.kind]}{over(finding)}</h2>"
        f"<p>{finding.severity}, {finding.confidence}{f', at {where}' if where else ''}</p>"
        f"<p>{html.escape(finding.cause)}</p><ul>{remedies}</ul><ul class='numbers'>{numbers}</ul>"
    )


def _figure(diagnosis: Diagnosis) -> str:
    if not diagnosis.book.entries:
        return ""
    from gradflow import plots

    figure = plots.waterfall(diagnosis.book)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<figure><img alt="ledger as a waterfall" src="data:image/png;base64,{data}"></figure>'
