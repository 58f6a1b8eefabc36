"""The report in headless Chromium, where there is one: no overflow at the widths of a phone and a desk, no error."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest

from metaopt.evaluate.report import write_report
from tests.evaluate.fake_results import results

BROWSER = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
PROBE = """<script>
const inner = window.innerWidth, all = [...document.querySelectorAll("main *")];
const found = {
  inner, scroll: document.documentElement.scrollWidth,
  wide: all.filter(e => !e.closest("svg, .scroll > *") && e.getBoundingClientRect().right > inner + 0.5)
    .map(e => e.outerHTML),
  text: Math.min(...[...document.querySelectorAll("svg.chart text")].map(
    e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a)),
  flat: document.querySelectorAll(".strip > svg").length
    - all.filter(e => e.matches(".strip > svg") && e.getBoundingClientRect().height > 10).length,
};
parent.document.body.setAttribute("data-found", JSON.stringify(found));
console.log("probe has run");
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "results.json").write_text(json.dumps(results()))
    return write_report(folder).read_text()


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_screen(html, tmp_path, width):
    """A copy with a probe that measures it, in a frame: a window of Chromium is at least 500 pixels wide."""
    probed = escape(html.replace("</body>", PROBE + "</body>"))
    page = tmp_path / "frame.html"
    page.write_text(
        f'<body><iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{probed}"></iframe></body>'
    )
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--hide-scrollbars",
        "--dump-dom",
    )
    size = (f"--user-data-dir={tmp_path / 'user'}", "--window-size=1400,1000")
    done = subprocess.run([BROWSER, *flags, *size, page.as_uri()], capture_output=True, text=True, timeout=60)
    attribute = re.search('data-found="([^"]*)"', done.stdout)
    assert attribute, done.stderr
    found = json.loads(unescape(attribute[1]))
    assert found["inner"] == width and found["scroll"] <= width and found["wide"] == []
    assert found["text"] >= 9  # pixels, of the smallest text in a chart
    assert found["flat"] == 0  # dots and intervals that one would not see
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(said) == 1 and "probe has run" in said[0]  # and so an error would have been seen
