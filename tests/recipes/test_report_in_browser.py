"""The page in headless Chromium: on a phone, on a desktop, in light and dark."""

import json

import pytest
from browser import DESKTOP, PHONE, browser, find_chromium
from finished_run import make_run, of_one_seed

from recipes.reporting.report import write_report

pytestmark = pytest.mark.skipif(
    find_chromium() is None,
    reason="no Chromium found: install it (apt-get install chromium), or name one in CHROMIUM",
)

# Text whose contrast with what lies behind it is below 4.5 : 1 (WCAG 2.2, level AA).
LOW_CONTRAST = """(() => {
  const parse = color => (color.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = (top, below) => {
    const alpha = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(i => top[i] * alpha + below[i] * (1 - alpha));
  };
  const behind = element => element === null
    ? [255, 255, 255]
    : over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const luminance = color => {
    const [r, g, b] = color.map(c => c / 255).map(
      c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!text || element.tagName === "style") continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const color = element.closest("svg") ? style.fill : style.color;
    const [light, dark] = [over(parse(color), ground), ground].map(luminance)
      .sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) found.push(`${element.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return found;
})()"""
CUT_OFF = """[...document.body.querySelectorAll("*")].filter(element =>
  !element.closest(".scroll, svg") && element.getBoundingClientRect().right > WIDTH + 0.5
).map(element => element.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(find_chromium(), tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory, data_dir):
    """The page of a run with several seeds, and of one with one."""
    folder = tmp_path_factory.mktemp("finished")
    results = make_run(folder, data_dir)
    pages = {}
    for version, content in (("seeds", results), ("one seed", of_one_seed(results))):
        (folder / "work/results.json").write_text(json.dumps(content))
        write_report(folder / "work", None, folder / "text")
        pages[version] = (folder / "work/results.html").rename(folder / f"{version}.html")
    return pages


@pytest.mark.parametrize("version", ["seeds", "one seed"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_is_quiet_asks_for_nothing_and_fits(page, pages, size, dark, version):
    path = pages[version]
    page.open(path, size, dark)
    # Everything unfolded, so that nothing hides.
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]
    assert page.evaluate("innerWidth") == size[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(CUT_OFF.replace("WIDTH", str(size[0]))) == []
    assert page.evaluate(LOW_CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark


def test_every_table_and_figure_is_there(page, pages):
    page.open(pages["seeds"])
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    captions = page.evaluate("[...document.querySelectorAll('caption')].map(c => c.textContent)")
    columns = [f"{split}, {beam}" for split in ("valid", "test") for beam in ("greedy", "beam 5")]
    assert captions == [
        *(f"{column}: differences to cross_entropy" for column in columns),
        "BLEU over seeds: differences to cross_entropy",
        *(f"{title}: {c}" for c in columns for title in ("Output statistics", "BLEU by length")),
        *("Cost, and what was chosen on valid", "Arms"),
    ]
    # Two splits; eight metrics over updates and over time.
    plots = "[...document.querySelectorAll('figure.plot svg')]"
    assert page.evaluate(f"{plots}.length") == 2 + 2 * 8
    assert page.evaluate(
        f"{plots}.every(s => s.getBoundingClientRect().width > 300 && s.querySelector('path'))"
    )
    assert page.evaluate("document.querySelectorAll('.example').length") == 2 * (3 + 3)
    assert page.evaluate("document.querySelectorAll('.example mark').length") > 20
    assert page.evaluate("document.querySelectorAll('.legend li svg').length") == 5
    assert "fairseq-preprocess --x '<y>'" in page.evaluate("document.body.textContent")


def test_page_can_be_read_aloud(page, pages):
    page.open(pages["seeds"])
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.evaluate("[...document.querySelectorAll('th')].every(th => th.scope)")
    unnamed = (
        "[...document.querySelectorAll('[role=img], [role=region]')].filter(e => !e.ariaLabel)"
    )
    assert page.evaluate(f"{unnamed}.length") == 0
    assert page.evaluate("document.querySelectorAll('[role=img]').length") == 2 + 2 * 8
    # Parts that scroll can be reached without a pointer.
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)")
    assert page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    ) == page.evaluate("document.querySelectorAll('[id]').length")


def test_the_measures_notice_a_bad_page(page, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<meta name=viewport content='width=device-width'><p style='color: #bbb'>faint</p>"
        "<img src='missing.png'><div style='width: 900px'>wide</div><script>absent()</script>"
    )
    page.open(path, PHONE)
    assert any("absent is not defined" in text for text in page.complaints())
    assert len(page.requests()) == 2
    assert page.evaluate("document.documentElement.scrollWidth") > 390
    assert [text.split(":")[0] for text in page.evaluate(LOW_CONTRAST)] == ["faint"]
    assert any("900px" in text for text in page.evaluate(CUT_OFF.replace("WIDTH", "390")))
