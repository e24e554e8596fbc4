"""A ledger as a table of HTML for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradflow.diagnosis.ledger_table import COLUMNS, cells, chosen, notes, running
from gradflow.instrument.html import cell_html, table_html

if TYPE_CHECKING:
    from gradflow.diagnosis.book import Book

_ROWS = 60


def book_html(book: Book) -> str:
    """Return the table of a ledger, self-contained."""
    shown, hidden = chosen(book.entries, _ROWS)
    so_far = running(book)
    lines = []
    for entry in shown:
        texts = cells(entry, so_far[entry])
        bad = bool(entry.remark) or bool(entry.beyond_chance)
        written = [cell_html(text, left=k < 3, bad=bad and k == 3) for k, text in enumerate(texts)]
        lines.append(f'<tr style="background:transparent">{"".join(written)}</tr>')
    more = [f"{len(hidden)} entries that change less are not shown"] if hidden else []
    return table_html(COLUMNS if shown else [], lines, [*notes(book), *more], repr(book))


__all__ = ["book_html"]
