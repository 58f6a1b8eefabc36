"""Reports of synthetic folders: an evaluation's, a run's, complete, interrupted, empty, with nulls everywhere."""

import json
import re
from html import escape
from html.parser import HTMLParser

import pytest

from metaopt.evaluate.artefacts import binned
from metaopt.evaluate.baselines import REFERENCE
from metaopt.evaluate.report import write_report
from metaopt.evaluate.report_html import label, styles
from tests.evaluate.fake_results import CONTENDERS, TASKS, results

VOID = {"meta", "line", "rect", "path", "polygon", "wbr"}  # HTML's own and the SVG elements we close as <x/>
RESULTS = results()  # made once
BASELINES, FEW = ("adam:lr=0.001", REFERENCE), ("image_vae(dataset=digits)", "two_moons")
SMALL = {  # two tasks with three contenders
    "rows": [r for r in RESULTS["rows"] if r["task"] in FEW and r["optimizer"] in ("sgd:lr=0.1", *BASELINES)],
    "curves": {task: {name: RESULTS["curves"][task][name] for name in ("sgd:lr=0.1", *BASELINES)} for task in FEW},
    **{key: {} for key in ("valid_curves", "tuned", "worth", "sweeps")},
}


class Checker(HTMLParser):
    """Fails on tags that do not nest and on ids that are not unique; collects links, tables' rows and plain text."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.rows, self.ids, self.text = [], [], 0, [], ""

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]
        self.ids += [v for k, v in attrs if k == "id"]
        assert "None" not in dict(attrs).values() and not any(
            "nan" in (v or "") for k, v in attrs if k in ("d", "points")
        )
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open and self.open[-1] not in ("style", "code") else ""


def check(path):
    html = path.read_text()
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.links == [] and len(set(checker.ids)) == len(checker.ids)
    assert "<script" not in html and "@import" not in html and "url(http" not in html and "//" not in checker.text
    assert not re.search(r"\b(nan|None|inf)\b", checker.text)
    return html, checker


@pytest.fixture
def evaluated(tmp_path):
    """Writes a folder with a results.json, changed by a function if wanted."""

    def write(change=lambda found: None):
        found = json.loads(json.dumps(RESULTS))
        change(found)
        (tmp_path / "results.json").write_text(json.dumps(found))
        return tmp_path

    return write


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "my <run>"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    return run


def fill(run):
    rows = [
        {"outer_step": i, "a/meta_loss": 1 / i, "meta_loss": 1 / i, "grad_norm": 1.0, "diverged": 1.0, "skipped": 0.0}
        for i in range(1, 401)
    ]
    rows[-1] |= {"valid/score": 0.5, "seconds": 75.0, "a/meta_loss": None}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    device = {"kind": "cpu", "platform": "cpu", "count": 2}
    starts = [{"command": ["metaopt", "train", "x y.yaml"], "versions": {"jax": "0.10.2"}, "device": device}]
    (run / "environment.json").write_text(json.dumps(starts))
    summary = {"inner_steps": 9000, "seconds": 75.0, "best": {"outer_step": 400, "score": 0.5}}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "results.json").write_text(json.dumps(RESULTS | SMALL))


def test_report_of_an_evaluation_is_whole_and_self_contained(evaluated):
    html, checker = check(write_report(evaluated()))
    tables = 1 + len(CONTENDERS), 1 + len(TASKS), 2 + len(TASKS), 1 + len(TASKS), 1 + len(TASKS)
    assert checker.rows == sum(tables)  # aggregates, losses, worth with its median, two tuned contenders
    assert html.count("<article>") == len(TASKS)
    assert html.count('aria-label="speed-up over') == 2  # sweeps
    for name, (*_, about) in CONTENDERS.items():
        assert label(name) in html and escape(about) in html
    for text in ("&gt;&#8239;100", "0.0031", "&#x27;a b.yaml&#x27;", "optax 0.2.6", "(modified)", "&lt;import it&gt;"):
        assert text in html


def test_failures_come_first(evaluated):
    html, _ = check(write_report(evaluated()))
    end = html.index("<h2>")
    for item in (
        "<b>sgd:lr=0.1</b> failed in 2 of 30 runs: image_vae(dataset=digits) (1 of 3), normalizing_flow (1 of 3)",
        "<b>prodigy</b> failed in 1 of 30 runs: rnn_lm(cell=gru) (1 of 3)",
        "<b>sgd:lr=0.1</b> failed in 5 of 60 runs in the sweep over horizon",
        "skipped <b>image_resnet(dataset=cifar10)</b>: ",
        "left out of the sweep over width: two_moons: has no such axis",
    ):
        assert 0 < html.index(item) < end


def test_ranking_is_by_speedup_and_has_intervals(evaluated):
    html, _ = check(write_report(evaluated()))
    ranking = html[html.index("<h3>Speed-up</h3>") : html.index("<h3>Probability of improvement</h3>")]
    assert ranking.count("<li>") == len(CONTENDERS)
    values = [float(x) for x in re.findall(r"class='figures'><b>([\d.]+)", ranking)]
    assert values == sorted(values, reverse=True)
    assert "▲ faster" in ranking and "▼ slower" in ranking and "◆ not told apart" in ranking


def everything_is_null(found):
    for row in [row for sweep in found["sweeps"].values() for row in sweep["rows"]] + found["rows"]:
        row |= {key: None for key, value in row.items() if isinstance(value, float) and key not in ("speedup", "value")}
        row |= {"speedup": 0.0, "diverged": True, "seconds_per_step": None}
    for kind in ("curves", "valid_curves"):
        for named in found[kind].values():
            for curve in named.values():
                curve |= {key: [None] * len(curve["steps"]) for key in ("mean", "low", "high")}
    found["worth"] = {task: dict.fromkeys(named, 0) for task, named in found["worth"].items()}


def least(found):
    task = FEW[1]
    found |= SMALL | {"skipped": {}}
    found["rows"] = [r for r in SMALL["rows"] if r["task"] == task and r["optimizer"] in BASELINES and r["seed"] == 0]
    found["curves"] = {task: {name: SMALL["curves"][task][name] for name in BASELINES}}


def nothing(found):
    found |= SMALL | {"rows": [], "curves": {}}


def a_sweep_without_a_base(found):
    found["sweeps"]["horizon"] |= {"base": None, "rows": []}
    found["sweeps"]["width"] |= {"base": None, "values": [0.5, 1, 2, 4, 8]}


@pytest.mark.parametrize("change", [everything_is_null, least, nothing, a_sweep_without_a_base])
def test_report_of_what_there_is(evaluated, change):
    html, _ = check(write_report(evaluated(change)))
    assert ("Every task was skipped" in html) == (change is nothing)
    assert ("No failures" in html) == (change is least)


def test_report_is_reproducible(folder):
    fill(folder)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_report_of_a_run_has_its_evaluation_and_its_training(folder):
    fill(folder)
    html, _ = check(write_report(folder))
    for text in ("my &lt;run&gt;", "sgd:lr=0.1</b> failed in 1 of 6 runs", "1 min 15 s", "&#x27;x y.yaml&#x27;"):
        assert text in html
    assert "400 inner runs diverged" in html[: html.index("<h2>")] and "metaopt.load(" in html
    assert html.count("<article>") == len(FEW) and html.count("<h3>Meta-loss</h3>") == 1
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("missing", ["metrics.jsonl", "results.json", "summary.json", "environment.json"])
def test_report_of_a_run_does_with_what_there_is(folder, missing):
    fill(folder)
    (folder / missing).unlink()
    html, _ = check(write_report(folder))
    assert ("Not evaluated" in html) == (missing == "results.json")


def test_report_of_a_run_that_has_just_begun(folder):
    html, _ = check(write_report(folder))
    assert "no outer step taken yet" in html


def test_report_of_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run and no evaluation"):
        write_report(tmp_path)


def test_ten_contenders_all_look_different():
    names = [*"abcdefgh", "adam:lr=0.001", REFERENCE]
    looks = styles(names, REFERENCE)
    assert len({looks[name] for name in names}) == 10
    assert looks[REFERENCE] == "reference" and looks["adam:lr=0.001"] == "usual"


def test_names_are_escaped_and_break_between_arguments():
    assert label("a(b=<c>, d)") == "a(<wbr/>b=<wbr/>&lt;c&gt;,<wbr/> d)"


def test_binned_keeps_means_and_extremes():
    assert binned([1, 2, 3, 4, 5], [1.0, 3.0, None, None, 7.0], bins=3) == {
        "x": [2, 4, 5],
        "y": [2.0, None, 7.0],
        "low": [1.0, None, 7.0],
        "high": [3.0, None, 7.0],
    }
