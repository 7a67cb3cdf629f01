"""The page in headless Chromium: on a phone, on a desktop, in light and dark."""

import json
import shutil

import pytest
from browser import DESKTOP, PHONE, POLICY, find_chromium, measure, open_page
from finished_run import of_one_seed

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
    const [light, dark] = [over(parse(style.color), ground), ground].map(luminance)
      .sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) found.push(`${element.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return found;
})()"""
CUT_OFF = """[...document.body.querySelectorAll("*")].filter(element =>
  !element.closest(".scroll") && element.getBoundingClientRect().right > WIDTH + 0.5
).map(element => element.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, finished_report):
    """The page of a run with several seeds, and of one with one."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(finished_report, folder, dirs_exist_ok=True)
    pages = {"seeds": (folder / "work/results.html").rename(folder / "seeds.html")}
    results = json.loads((folder / "work/results.json").read_text())
    (folder / "work/results.json").write_text(json.dumps(of_one_seed(results)))
    write_report(folder / "work", None, folder / "text")
    return {**pages, "one seed": folder / "work/results.html"}


def fits(width):
    """What is to be empty, or this wide, in a window of this width."""
    return {
        "width": "innerWidth",
        "scroll": "document.documentElement.scrollWidth",
        "cut off": CUT_OFF.replace("WIDTH", str(width)),
        "low contrast": LOW_CONTRAST,
        "background": "getComputedStyle(document.body).backgroundColor",
    }


@pytest.mark.parametrize(
    ("size", "dark", "version"),
    [(PHONE, False, "seeds"), (PHONE, True, "one seed"), (DESKTOP, True, "seeds")],
)
def test_page_fits(pages, size, dark, version):
    found = measure(pages[version], fits(size[0]), size, dark)
    assert found["width"] == size[0]
    assert found["scroll"] <= size[0]
    assert (found["cut off"], found["low contrast"]) == ([], [])
    assert (found["background"] == "rgb(255, 255, 255)") is not dark


def test_page_asks_for_nothing_and_is_quiet_and_made_for_phones(pages, tmp_path):
    document, complaints = open_page(pages["seeds"], tmp_path)
    assert complaints == []  # of what its policy refuses, that is everything outside of it
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in document


PLOTS = "[...document.querySelectorAll('figure.plot img')]"
CONTENT = {
    "captions": "[...document.querySelectorAll('caption')].map(c => c.textContent)",
    "plots": f"{PLOTS}.length",
    "drawn": f"{PLOTS}.every(image => image.complete && image.naturalWidth > 300)",
    "examples": "document.querySelectorAll('.example').length",
    "text": "document.body.textContent",
    "language": "document.documentElement.lang",
    "headings": "document.querySelectorAll('h1').length",
    "scopes": "[...document.querySelectorAll('th')].every(th => th.scope)",
    "unnamed": (
        "[...document.querySelectorAll('img, [role=region]')]"
        ".filter(e => !e.ariaLabel && !e.alt).length"
    ),
    "reachable": "[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)",
    "ids": "[...document.querySelectorAll('[id]')].map(e => e.id)",
}


def test_every_table_and_figure_is_there_and_can_be_read_aloud(pages):
    found = measure(pages["seeds"], CONTENT)
    columns = [f"{split}, {beam}" for split in ("valid", "test") for beam in ("greedy", "beam 5")]
    assert found["captions"] == [
        *(f"{column}: differences to cross_entropy" for column in columns),
        "BLEU over seeds: differences to cross_entropy",
        *(f"{title}: {c}" for c in columns for title in ("Output statistics", "BLEU by length")),
        *("Cost, and what was chosen on valid", "Arms"),
    ]
    assert found["plots"] == 2
    assert found["drawn"]
    assert found["examples"] == 2 * (3 + 3)
    assert "fairseq-preprocess --x '<y>'" in found["text"]
    assert (found["language"], found["headings"], found["unnamed"]) == ("en", 1, 0)
    assert found["scopes"]
    assert found["reachable"]  # what scrolls, without a pointer
    assert len(set(found["ids"])) == len(found["ids"])


def test_the_measures_notice_a_bad_page(pages, tmp_path):
    path = tmp_path / "bad.html"
    (policy,) = POLICY.findall(pages["seeds"].read_text(encoding="utf-8"))
    path.write_text(
        f"<!DOCTYPE html>{policy}<p style='color: #bbb'>faint</p><img src='missing.png'>"
        "<div style='width: 900px'>wide</div><script>absent()</script>"
    )
    _, complaints = open_page(path, tmp_path / "profile")
    assert any("missing.png" in line for line in complaints)
    assert any("script" in line for line in complaints)
    found = measure(path, fits(390), PHONE)
    assert found["scroll"] > 390
    assert [text.split(":")[0] for text in found["low contrast"]] == ["faint"]
    assert any("900px" in text for text in found["cut off"])
