"""The documentation: every page is reached, links and anchors lead somewhere, figures have words, the site builds."""

from __future__ import annotations

import html
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gradflow
from tests.house import documents

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted({*DOCS.rglob("*.md"), *ROOT.glob("*.md")})
STORY = sorted(set((DOCS / "story").glob("*.md")) - {DOCS / "story" / "index.md"})
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)|<img [^>]*alt=\"([^\"]*)\"[^>]*>")


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as code hosts and the site form it."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", h).lower()).strip().replace(" ", "-") for h in headings}


def broken(page: Path) -> list[str]:
    """Links of a page, inside the repository, that lead nowhere."""
    wrong = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=documents.name_of)
def test_links_and_anchors_lead_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading: of two\n[a](page.md#a-heading-of-two) [b](page.md#another) [c](none.md) [d](x:y)\n")
    assert broken(page) == ["page.md#another", "none.md"]


def test_every_page_is_reached_from_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = [link.partition("#")[0] for link in LINK.findall(prose(page)) if ":" not in link]
        waiting += [(page.parent / target).resolve() for target in targets if target]
    assert {p for p in DOCS.rglob("*.md") if p.parent.name != "project"} <= reached
    assert "(docs/index.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=documents.name_of)
def test_figures_have_words_for_those_who_do_not_see_them(page):
    for words, target, tag in IMAGE.findall(prose(page)):
        thumbnail = page == DOCS / "results" / "index.md"  # its text is the link's: the name of the experiment
        assert len((words or tag).split()) >= (1 if thumbnail else 4), target


@pytest.mark.parametrize("page", STORY, ids=lambda page: page.stem)
def test_a_chapter_has_equation_lines_output_figure_claims_and_mistakes(page):
    text = page.read_text(encoding="utf-8")
    assert "$$" in text
    assert [block[1] for block in documents.BLOCK.finditer(text)] == ["python", "text"]
    code, printed = (block[2].splitlines() for block in documents.BLOCK.finditer(text))
    assert len(code) <= 24
    assert printed
    assert re.search(r"!\[[^\]]+\]\(\.\./results/\w+\.png\)", text)
    assert re.search(r"claims?\b.*\]\(\.\./results/\w+\.md\)|\]\(\.\./results/\w+\.md\).*claims?\b", text, re.DOTALL)
    assert text.partition("## What people get wrong")[2].count("\n- **") >= 3


def test_there_is_enough_of_it():
    assert len(STORY) >= 12
    assert (DOCS / "how-to.md").read_text(encoding="utf-8").count("\n### ") >= 20


FRAMEWORKS = ("Flax Linen", "Flax NNX", "Equinox", "Haiku", "Keras", "Plain JAX")


def test_quickstart_has_a_tab_for_each_framework_with_four_steps():
    text = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    (four_steps,) = re.findall(r"^## Four steps in your framework\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    tabs = re.split(r"^### (.*)\n", four_steps, flags=re.MULTILINE)[1:]
    assert tuple(tabs[::2]) == FRAMEWORKS
    for tab in tabs[1::2]:
        steps = re.split(r"^\*\*(Measure|Diagnose|Treat|Watch)\.\*\*", tab, flags=re.MULTILINE)[1:]
        assert steps[::2] == ["Measure", "Diagnose", "Treat", "Watch"]
        for step in steps[1::2]:
            assert [block[1] for block in documents.BLOCK.finditer(step)][:2] == ["python", "text"]


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert project["version"] == gradflow.__version__ == cited


def test_the_command_that_builds_the_site_is_the_same_everywhere():
    command = "python -m sphinx -W --keep-going -b html docs build/site"
    for file in (DOCS / "index.md", DOCS / "conf.py", DOCS / "release.md"):
        assert command in file.read_text(encoding="utf-8"), file


class Page(HTMLParser):
    """Anchors, links, and images of a page of the site."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, from what a fresh clone holds, without network."""
    missing = [name for name in ("sphinx", "furo", "myst_parser") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -c constraints.txt -e '.[docs]'")
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("site")
    for name in ("docs", "gradflow"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.md"):
        shutil.copy(file, clone)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(out)],
        cwd=clone, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(site):
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    assert len(pages) > len(STORY) + 20
    for file, page in pages.items():
        if file.name in ("search.html", "genindex.html", "py-modindex.html"):
            continue
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", target):
                continue
            other = (file.parent / target).resolve() if target else file
            assert other.exists(), (file.name, link)
            assert not anchor or other not in pages or anchor in pages[other].ids, (file.name, link)
        for image in page.images:
            assert image.get("alt"), (file.name, image)
            assert (file.parent / str(image["src"])).resolve().exists(), (file.name, image)


@pytest.mark.slow
def test_the_reference_has_every_public_name(site):
    text = "\n".join(file.read_text(encoding="utf-8") for file in (site / "api").glob("*.html"))
    for name in gradflow.__all__:
        value = getattr(gradflow, name)
        if getattr(value, "__name__", "").startswith("gradflow."):
            # Constants and aliases of types have no docstring, and are not on the page.
            inner = [
                n for n in value.__all__ if inspect.isclass(getattr(value, n)) or inspect.isfunction(getattr(value, n))
            ]
            missing = [n for n in inner if f'id="gradflow.{name}.{n}"' not in text and f'id="gradflow.{n}"' not in text]
            assert missing == [], name
        else:
            assert f'id="gradflow.{name}"' in text, name


@pytest.mark.slow
def test_nothing_on_the_site_is_fetched_from_elsewhere(site):
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"https?://", text), file.name


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>addEventListener('load', () => {
  const channels = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255);
  const linear = v => v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const shine = c => channels(c).reduce((sum, v, i) => sum + linear(v) * [0.2126, 0.7152, 0.0722][i], 0.05);
  const contrast = (a, b) => Math.max(shine(a), shine(b)) / Math.min(shine(a), shine(b));
  const found = {};
  for (const frame of document.querySelectorAll('iframe')) {
    const page = frame.contentDocument, root = page.documentElement;
    const style = e => frame.contentWindow.getComputedStyle(e);
    const sees = found[frame.dataset.page] = {over: root.scrollWidth - root.clientWidth, tables: [], faint: []};
    for (const box of page.querySelectorAll('article .table-wrapper'))
      if (box.scrollWidth > box.clientWidth + 1) sees.tables.push(box.textContent.trim().slice(0, 20));
    const kinds = {};  // one element of each tag and class
    for (const e of page.querySelectorAll('article :is(p, p > a, .highlight span, td, h1, h2)'))
      kinds[e.tagName + e.className] ??= e;
    for (const theme of ['light', 'dark']) {
      page.body.dataset.theme = theme;
      for (const [kind, e] of Object.entries(kinds)) {
        const ground = style(e.closest('.highlight') || page.body).backgroundColor;
        if (contrast(style(e).color, ground) < 4.5) sees.faint.push([theme, kind, e.textContent.slice(0, 20)]);
      }
    }
  }
  document.title = JSON.stringify(found);
})</script>"""


def looked_at(pages, width, tmp_path):
    """What a browser makes of pages of the site in a frame: their width, tables that do not fit, words that are faint.

    Args:
        pages: paths.
        width: of the frame, in CSS pixels.
        tmp_path: where the browser may write.
    """
    frames = "".join(
        f'<iframe src="file://{page}" data-page="{page.name}" width="{width}" height="800" style="border: 0"></iframe>'
        for page in pages
    )
    probe = tmp_path / "probe.html"
    probe.write_text(f"<!doctype html><title></title>{PROBE}{frames}", encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--allow-file-access-from-files",
    ]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900", f"file://{probe}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    return json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser installed")
@pytest.mark.parametrize(
    "folder, width",
    # At 1200 px tables of claims, of up to ten columns, and the changelog's old names scroll by themselves.
    [
        *((folder, 390) for folder in (".", "api", "project", "results", "story")),
        *((folder, 1200) for folder in (".", "api", "story")),
    ],
)
def test_no_page_and_no_table_is_wider_than_the_screen_and_words_can_be_read(site, folder, width, tmp_path):
    """On a telephone and a desktop, light and dark. A block of code scrolls by itself."""
    made = {site / name for name in ("genindex.html", "search.html", "py-modindex.html")}
    found = looked_at(sorted(set((site / folder).glob("*.html")) - made), width, tmp_path)
    assert {page: sees for page, sees in found.items() if sees != {"over": 0, "tables": [], "faint": []}} == {}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser installed")
@pytest.mark.parametrize("anchor, shown", [("", "flax-linen"), ("#keras", "keras"), ("#ledger", "flax-linen")])
def test_one_tab_is_shown_and_a_link_opens_its_own(site, anchor, shown, tmp_path):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}", f"file://{site / 'quickstart.html'}{anchor}"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    panels = re.findall(r'<section\b[^>]*role="tabpanel"[^>]*>', page)
    assert len(panels) == page.count('role="tab"') == len(FRAMEWORKS)
    assert [re.search(r'\bid="([^"]+)"', panel)[1] for panel in panels if "hidden=" not in panel] == [shown]


@pytest.mark.slow
def test_a_sentence_of_the_reference_is_not_taken_for_a_type(site):
    for file in (site / "api").glob("*.html"):
        assert 'Type<span class="colon">' not in file.read_text(encoding="utf-8"), file.name
