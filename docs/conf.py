"""The site: `python -m sphinx -W --keep-going -b html docs build/site` builds it from these pages, without network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.roles import XRefRole
from sphinx.util import logging

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "gradflow"
author = "the authors of gradflow"
project_copyright = "the authors of gradflow, Apache-2.0"
(version,) = re.findall(r'^__version__ = "(.*)"$', (ROOT / "gradflow" / "__init__.py").read_text("utf-8"), re.MULTILINE)
release = version

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_static"]
suppress_warnings = ["config.cache"]  # functions among these settings are no reason to warn

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"gradflow {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("tabs.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

autodoc_default_options = {"members": True, "no-value": True, "member-order": "groupwise"}
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autosummary_generate = False
maximum_signature_line_length = 72
python_display_short_literal_types = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False  # the signature has them
default_role = "name"

# Pages of the repository that lie outside of docs. On a code host docs/project/NAME.md links there; here it becomes it.
OUTSIDE = ("README", "CHANGELOG", "CONTRIBUTING", "BUILD_NOTES")
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
THUMBNAIL = re.compile(r'<a href="([^"]+)"><img src="([^"]+)" width="\d+" alt="([^"]*)"></a>')


def moved(target: str, folder: Path, page: Path) -> str:
    """Return where a link leads on the site.

    Args:
        target: of the link, a path.
        folder: from which the path is meant.
        page: of the site on which the link stands.
    """
    path = (folder / target).resolve()
    if path.parent == ROOT and path.suffix == ".md" and path.stem in OUTSIDE:
        path = DOCS / "project" / path.name
    up = [".."] * len(page.parent.relative_to(DOCS).parts)
    return "/".join([*up, *path.relative_to(DOCS).parts]) if path.is_relative_to(DOCS) else target


def trees(text: str) -> str:
    """Return the contents of the site, read off an index page: a list a section, of the pages in its table."""
    out = ""
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        caption = section.partition("\n")[0]
        rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
        links = dict.fromkeys(m[2].removesuffix(".md") for m in LINK.finditer(rows) if m[2].endswith(".md"))
        if links and not caption.startswith("# "):
            out += "\n\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(links) + "\n```\n"
        elif links:
            out += "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(links) + "\n```\n"
    return out


def read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put pages that lie outside of docs in the place of those that link to them, and lead links there."""
    page = DOCS / f"{docname}.md"
    if not page.exists():
        return
    folder, name = page.parent, page.stem
    if docname.startswith("project/") and name in OUTSIDE:
        folder = ROOT
        content[0] = (ROOT / page.name).read_text(encoding="utf-8")
    text = THUMBNAIL.sub(r"[![\3](\2)](\1)", content[0])
    content[0] = LINK.sub(lambda m: f"{m[1]}{moved(m[2], folder, page)}{m[3]}", text)
    if name == "index":
        content[0] += trees(content[0])


SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Examples|Yields|Note|Notes):$")
COLON = "\ue000"  # of no script: it stands for ":" for as long as napoleon reads
MARKUP = re.compile(r"(`+[^`]*`+)|([*|\\])|(_)(?=\W|$)")


def escaped(line: str) -> str:
    """Return a line of a docstring with reStructuredText's markup escaped, but for what stands in backticks."""
    return MARKUP.sub(lambda m: m[1] or f"\\{m[2] or m[3]}", line)


def read_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Read plain text with backticks: markup is escaped, indented paragraphs are shown as they stand."""
    out: list[str] = []
    shown = code = section = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        section = section or bool(SECTION.match(line))
        if line.strip() and indent == 0:
            shown = False
        previous = next((x for x in reversed(out) if x.strip()), "")
        if line.strip() and indent and not section and out and not out[-1].strip() and not previous.startswith(" "):
            shown = True
            out += ["::", ""]
        code = line.lstrip().startswith((">>>", "...")) or (code and bool(line.strip()))
        out.append(line if shown or code else escaped(line))
    if out and what in ("attribute", "property"):  # napoleon takes "what it is: more" for the type of an attribute
        out[0] = out[0].replace(":", COLON)
    lines[:] = out


def read_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write the colons that `read_docstring` has hidden from napoleon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def name_role(role: str, rawtext: str, text: str, *more: Any, **options: Any) -> Any:
    """Link a name of gradflow, or of a class, to what it names; show anything else as code."""
    if re.fullmatch(r"(?:gradflow|gf)\.[\w.]+|[A-Z]\w*[a-z]\w*(?:\.\w+)?", text):
        return XRefRole()("py:obj", rawtext, re.sub(r"^gf\.", "gradflow.", text), *more, **options)
    return [nodes.literal(rawtext, text)], []


def mathml(self: Any, node: nodes.Element) -> None:
    """Write TeX as MathML, which browsers draw without a script."""
    block = isinstance(node, nodes.math_block)
    try:
        written = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s in %s", error, node.astext(), location=node)
        raise nodes.SkipNode from error
    self.body.append(f'<div class="math">{written}</div>' if block else written)
    raise nodes.SkipNode


TABLE = re.compile(r'<table class="docutils.*?</table>', re.DOTALL)
HEAD = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
FIGURE = re.compile(r'(<a [^>]*>\s*)?(<img [^>]*src="([^"]+)"[^>]*>)')


def labelled(table: re.Match[str]) -> str:
    """Return a table of three columns or more with the label of its column in every cell, for narrow screens.

    A style sheet that shows rows as cards takes the meaning of a table away from screen readers; the roles keep it.
    """
    heads = [re.sub(r"<[^>]+>", "", head).strip().replace('"', "&quot;") for head in HEAD.findall(table[0])]
    if len(heads) < 3:
        return table[0]

    def row(match: re.Match[str]) -> str:
        labels = iter(heads)
        cells = re.sub(r"<td\b", lambda _: f'<td role="cell" data-label="{next(labels, "")}"', match[0])
        return cells.replace("<th ", '<th role="columnheader" ').replace("<tr ", '<tr role="row" ', 1)

    return ROW.sub(row, table[0]).replace('<table class="', '<table role="table" class="cards ', 1)


# The sections inside of these become tabs (_static/tabs.js).
TABS = {"quickstart": "four-steps-in-your-framework"}


def finish_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Label the cells of wide tables, mark tabs, and let a figure lead to its file, where it can be enlarged."""
    if "body" in context:
        body = TABLE.sub(labelled, context["body"])
        if pagename in TABS:
            body = body.replace(f'<section id="{TABS[pagename]}">', f'<section class="tabs" id="{TABS[pagename]}">')
        context["body"] = FIGURE.sub(
            lambda m: m[0] if m[1] else f'<a class="image-reference" href="{m[3]}">{m[2]}</a>', body
        )


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("html-page-context", finish_page)
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)
    app.connect("autodoc-process-docstring", read_colons, priority=600)
    app.add_role("name", name_role)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.add_html_math_renderer("mathml", inline_renderers=(mathml, None), block_renderers=(mathml, None))
