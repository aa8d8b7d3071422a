"""The page of a sweep: every figure on it comes from the cells."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from omnidistill.errors import UserError
from omnidistill.evaluation import cells
from omnidistill.evaluation.cells import Cell, Outcome
from omnidistill.evaluation.gap import best_gap
from omnidistill.evaluation.metrics_file import read_metrics, write_metrics
from omnidistill.evaluation.report import write_report
from omnidistill.evaluation.report.matrix import entries
from omnidistill.evaluation.report.plots import SIGNS
from omnidistill.evaluation.report.sweep import colours, teachers
from omnidistill.evaluation.report.thumbnails import thumbnail
from omnidistill.evaluation.results_file import write_results
from omnidistill.evaluation.table import number


class Text(HTMLParser):
    """The words of a page, those of each row of its tables, and its links."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.hidden = self.inside = False
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.hidden = tag in ("style", "title")
        given = dict(attributes)
        if tag == "a":
            self.links.append(given["href"] or "")
        elif given.get("src") or given.get("href"):
            self.loads.append(given.get("src") or given.get("href") or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)
            if self.inside:
                self.rows[-1][-1] += data

    def section(self, head: str, until: str) -> str:
        return self.text.split(head, 1)[1].split(until, 1)[0]


def page_of(folder: Path) -> Text:
    return Text(write_report(folder).read_text())


class Sweep:
    """A sweep's folder, filled by hand from one run that was really evaluated."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run, self.cells = folder, run, list[Cell]()
        self.document = read_metrics(run)

    def add(
        self,
        task: str,
        recipe: str | None,
        seed: int = 0,
        column: str | None = None,
        reason: str = "",
        **changes: object,
    ) -> Path:
        """A finished cell with these changes of its metrics.json."""
        name = column or recipe or "?"
        cell = Cell(task, name, name if "/" in name else recipe or name, seed, recipe, reason)
        self.cells.append(cell)
        cells.write_cells(self.cells, self.folder)
        place = self.folder / cell.folder
        if recipe is not None and "missing" not in changes:
            document = copy.deepcopy(self.document)
            document.update(task=task, recipe=recipe, seed=seed, **changes)
            write_metrics(document, place)
            shutil.copytree(self.run / "samples", place / "samples", dirs_exist_ok=True)
            (place / "report.html").write_text("the page of a run")
        return place

    def fail(self, task: str, recipe: str, seed: int, status: int, reason: str) -> None:
        place = self.add(task, recipe, seed, missing=True)
        cells.write_outcome(Outcome(cells.FAILED, status, reason, 61.0, 2), place)
        cells.log_file(place).write_text("said")


@pytest.fixture
def sweep(tmp_path: Path, run: Path) -> Sweep:
    return Sweep(tmp_path / "sw eep", run)


def test_the_matrix_has_the_best_few_step_student_and_every_step_count(sweep: Sweep) -> None:
    sweep.add("a/b", "x", 0, gap_closed={"1": 91.0, "4": 80.0, "8": 99.0})
    sweep.add("a/b", "x", 1, gap_closed={"1": 93.0, "4": 88.0, "8": 99.0})
    sweep.add("a/b", "y", 0, column="z/y", gap_closed={"1": None, "4": -3.0}, gap_interval={})
    sweep.add("c", "x", 0, gap_closed={"1": None})
    page = page_of(sweep.folder)
    one = number(sweep.document["student"][0]["metrics"]["energy"])
    assert page.rows[0] == ["task", "x", "z / y"]
    first, second = page.rows[1:3]
    assert first[0] == "a/b"
    expected = "92.0 % at 1 step1 step: 92.0 % [91.0 … 93.0]4 steps: 84.0 % [80.0 … 88.0]"
    assert first[1].startswith(expected), "best of at most four steps, means over seeds with their range"
    assert "8 steps: 99.0 % [99.0 … 99.0]" in first[1] and first[1].endswith("seed 0 seed 1 ")
    assert first[2] == (f"y−3.0 % at 4 steps1 step: no gap to close, energy {one}4 steps: −3.0 %seed 0 "), (
        "the metric where there is no gap"
    )
    assert second[1].startswith("1 step: no gap to close, energy") and second[2] == "–"
    assert list(dict.fromkeys(link for link in page.links if link.startswith("a/b"))) == [
        *("a/b/x/0/report.html", "a/b/x/1/report.html", "a/b/y/0/report.html")
    ]
    assert "a/b: x closes 92.0 % of the gap at 1 step." in page.text


def test_the_page_loads_nothing_and_the_same_cells_make_the_same_page(sweep: Sweep) -> None:
    sweep.add("a", "x")
    source = write_report(sweep.folder).read_text()
    assert all(address.startswith(("data:", "#")) for address in Text(source).loads)
    assert not re.search(r"<(script|iframe|object|embed)\b", source)
    assert write_report(sweep.folder).read_text() == source


def test_what_is_not_finished_is_named_with_its_reason(sweep: Sweep) -> None:
    sweep.add("a", "x")
    sweep.fail("a", "y", 0, 137, "killed by SIGKILL <b>")
    sweep.add("b", None, 0, column="y", reason="y needs differentiable")
    sweep.add("c", "x", missing=True)
    stopped = sweep.add("d", "x", missing=True)
    stopped.mkdir(parents=True)
    (stopped / "config.yaml").write_text("updates: 3\n")
    page = page_of(sweep.folder)
    assert "5 cells: 1 finished, 1 failed, 1 not possible, 1 waiting, 1 interrupted." in page.text
    said = page.section("Not finished", "Seconds a sample")
    assert "a · y · seed 0 failed (exit status 137) killed by SIGKILL <b> what it said" in said
    assert "b · y · seed 0 not possible y needs differentiable" in said
    assert "c · x · seed 0 waiting" in said and "d · x · seed 0 interrupted" in said
    assert "a/y/0.log" in page.links
    assert {row[0]: row[2] for row in page.rows[1:5] if row[0] in "ab"} == {
        "a": "failed",
        "b": "not possible",
    }


def test_seconds_and_cost(sweep: Sweep) -> None:
    training = {**sweep.document["training"], "student_updates": 1000, "seconds": 200.0}
    for seed in (0, 1):
        points = copy.deepcopy(sweep.document["teacher"])
        points[-1]["seconds_per_sample"] = 0.08
        student = copy.deepcopy(sweep.document["student"])
        for point, seconds in zip(student, (0.001 + 0.002 * seed, 0.04), strict=True):
            point["seconds_per_sample"] = seconds
        place = sweep.add("a", "x", seed, teacher=points, student=student, training=training)
        (place / "config.yaml").write_text("updates: 1000\n")
        cells.write_outcome(Outcome(cells.FINISHED, 0, "", 300.0 + 20.0 * seed, 1), place)
    page = page_of(sweep.folder)
    assert ["a", "x", "0.0800 (16 steps)", "0.00200 (40.0×)", "0.0400 (2.0×)"] in page.rows
    calls = "teacher 30, student 60, fake score 180"
    assert ["a", "x", "2", "1,000", "3 min 20 s", "5 min 10 s", calls] in page.rows


def test_every_figure_of_every_model(sweep: Sweep) -> None:
    sweep.add("a", "x")
    page = page_of(sweep.folder)
    metrics = sweep.document
    for name, model in (("teacher", "teacher"), ("x", "student")):
        for point in metrics[model]:
            (row,) = (r for r in page.rows if r[:3] == [name, str(point["steps"]), str(point["nfe"])])
            assert row[4:] == [number(value) for value in point["metrics"].values()]
    assert ["real data", "", "", "", *(number(v) for v in metrics["floor"].values())] in page.rows


def test_pictures_of_each_cell_are_small_and_inside(sweep: Sweep) -> None:
    from PIL import Image

    sweep.add("a", "x", gap_closed={"1": 20.0, "4": 60.0})
    place = sweep.add("a", "y", gap_closed={"1": 70.0, "4": 60.0})
    Image.new("RGB", (1000, 500), "red").save(place / "samples" / "student_1.png")
    source = write_report(sweep.folder).read_text()
    captions = re.findall(
        r"<figcaption>([^<]*)</figcaption><a href=\"[^\"]*\"><img src=\"data:image/(?:png|jpeg);base64,",
        source,
    )
    assert captions == ["real data", "teacher, 16 steps", "x, 4 steps", "y, 1 step"]
    shown = re.findall(r'<img src="data:image/\w+;base64,([^"]*)"', source)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in shown]
    assert sizes[3] == (480, 250), "half of 960 x 500: what is smaller cannot be read"
    assert max(width for width, _ in sizes) <= 480
    assert re.findall(r'</figcaption><a href="([^"]*)"><img', source)[2:] == [
        *("a/x/0/report.html", "a/y/0/report.html")
    ]


def test_a_text_is_read_and_a_sound_is_heard_where_they_are_compared(sweep: Sweep) -> None:
    samples = sweep.add("a", "x", gap_closed={"1": 20.0}) / "samples"
    (samples / "student_1.txt").write_text("<first> line\n" + "word " * 40 + "\n" + "more\n" * 9)
    (samples / "student_1.wav").write_bytes(b"a short sound")
    (samples / "student_1_1.wav").write_bytes(b"another")
    (samples / "real.wav").write_bytes(b"x" * 400_001)
    page = write_report(sweep.folder).read_text()
    (figure,) = re.findall(r"<figure[^>]*><figcaption>x, 1 step</figcaption>.*?</figure>", page, re.S)
    (text,) = re.findall(r"<pre>(.*?)</pre>", figure, re.S)
    lines = text.split("\n")
    assert lines[0] == "&lt;first&gt; line" and len(lines) == 6
    assert len(lines[1]) == 90 and lines[1].endswith("…")
    assert "x, 1 step · item 0" in figure, "a player says what it plays"
    assert figure.count("<audio") == 1 and base64.b64encode(b"a short sound").decode() in figure
    assert page.count("<audio") == 1, "a long one is left to the page of the run"


def test_a_file_that_is_no_picture_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing of the kind")
    assert thumbnail(tmp_path / "a.png") is None


def test_a_teacher_under_guidance_has_a_line_of_its_own(sweep: Sweep) -> None:
    sweep.add("a", "x")
    more = copy.deepcopy(sweep.document["teacher"])
    more.insert(3, {**more[2], "steps": 8, "nfe": 15})
    sweep.add("a", "y", teacher=more)
    guided = [{**point, "nfe": 2 * point["nfe"]} for point in copy.deepcopy(sweep.document["teacher"])]
    sweep.add("a", "z", teacher=guided)
    curves = teachers([entry for entry in entries(cells.find(sweep.folder)) if entry.done])
    assert [[point["steps"] for point in curve] for curve in curves] == [[1, 2, 4, 8, 16], [1, 2, 4, 16]]
    source = write_report(sweep.folder).read_text()
    drawing = re.search(r'<svg[^>]*aria-label="a: energy against network calls".*?</svg>', source, re.S)
    assert drawing
    lines = re.findall(
        r'<path d="[^"]*" clip-path[^>]*style="fill: none; ([^"]*var\(--teacher\)[^"]*)"', drawing[0]
    )
    assert len(lines) == 2 and sum("dasharray" in line for line in lines) == 1


def test_a_recipe_has_one_colour_and_no_other_on_its_task_has_it(sweep: Sweep) -> None:
    for task, recipe in [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("b", "w"), ("c", "v")]:
        sweep.add(task, recipe)
    marks = colours(entries(cells.find(sweep.folder)))
    assert marks["x"] == 0 and len({marks[r] for r in "xyz"}) == 3 and marks["w"] != marks["x"]
    assert marks["v"] == 0, "a recipe of another task may have it again"
    keys = re.findall(r'style="color: var\(--c(\d)\)">(.) (\w)', write_report(sweep.folder).read_text())
    assert {(int(mark), sign, name) for mark, sign, name in keys} == {
        (m, SIGNS[m], r) for r, m in marks.items()
    }


def test_no_colour_stands_twice_in_a_legend(sweep: Sweep) -> None:
    for task, recipes in (("a", "pqrstuvw"), ("b", "xyzp")):
        for recipe in recipes:
            sweep.add(task, recipe)
    source = write_report(sweep.folder).read_text()
    legends = re.findall(r'<p class="keys">(.*?)</p>', source)
    assert len(legends) == 2
    for legend, count in zip(legends, (8, 4), strict=True):
        keys = re.findall(r'style="color: var\(--c(\d+)\)">(.) \w', legend)
        assert len({colour for colour, _ in keys}) == len({sign for _, sign in keys}) == count
        assert all(f"--c{colour}:" in source for colour, _ in keys)


def test_the_page_says_how_it_was_made_and_on_how_many_samples(sweep: Sweep) -> None:
    sweep.add("a", "x")
    cells.write_cells(sweep.cells, sweep.folder, "omnidistill sweep task=a 'recipe=x<b>' out=DIR")
    cells.write_cells(sweep.cells, sweep.folder)
    page = page_of(sweep.folder)
    assert page.text.endswith("Again omnidistill sweep task=a 'recipe=x<b>' out=DIR")
    assert "a on 1,000 samples" in page.text


def test_text_from_a_cell_cannot_become_markup(sweep: Sweep) -> None:
    bad = "<script>alert(1)</script>"
    warning = f"The teacher {bad}"
    sweep.add("a", "x", warnings=[warning], environment={"torch": bad}, shown=[bad])
    sweep.add(bad.replace("/", "|"), "y'\"><img src=x>")
    sweep.fail("a", "z", 0, 1, bad)
    source = write_report(sweep.folder).read_text()
    assert "<script" not in source and "<img src=x" not in source
    assert f"a: {warning}" in Text(source).text


def test_a_recipe_in_two_columns_is_drawn_once(sweep: Sweep) -> None:
    sweep.add("a", "x", column="x")
    sweep.add("a", "x", column="w/x")
    page = page_of(sweep.folder)
    assert page.text.startswith("sw eep tasks × recipes 1 cells: 1 finished. Judged:")
    assert sum(row[:2] == ["a", "x"] for row in page.rows) == 2, "one row in seconds, one in cost"
    assert page.rows[1][1].startswith("−") or "at" in page.rows[1][1]


def test_a_sweep_without_any_finished_cell_has_a_page(sweep: Sweep) -> None:
    sweep.fail("a", "y", 0, 1, "no luck")
    page = page_of(sweep.folder)
    assert "no luck" in page.text and "Seconds a sample" not in page.text


def test_runs_that_lie_together_are_a_sweep_too(run: Path, tmp_path: Path) -> None:
    """Made by hand, without sweep.json: the page is of what is there, and says what cannot be read."""
    document = read_metrics(run)
    for seed, gap in ((0, 91.0), (1, 92.5)):
        document.update(task="a", recipe="x", seed=seed, gap_closed={"1": gap, "4": None})
        write_metrics(document, tmp_path / f"my {seed}")
    (tmp_path / "my 0" / "report.html").write_text("page")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_text("{")
    page = page_of(tmp_path)
    assert page.rows[1][1].startswith("91.8 % at 1 step")
    assert "my%200/report.html" in page.links and not any("my%201" in link for link in page.links)
    assert "broken failed" in page.text and "truncated" in page.text


def test_a_broken_sweep_file_is_one_line(tmp_path: Path) -> None:
    for text in (
        "{",
        '{"schema": 2, "cells": []}',
        '{"schema": 1}',
        '{"schema": 1, "cells": [{"task": "a"}]}',
    ):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(UserError, match=r"sweep\.json") as caught:
            write_report(tmp_path)
        assert "\n" not in str(caught.value)


def test_results_are_what_the_cells_say(sweep: Sweep) -> None:
    sweep.add("a", "x")
    sweep.fail("a", "y", 3, 1, "no luck")
    file = write_results(cells.find(sweep.folder), sweep.folder)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    points = [(model, point) for model in ("teacher", "student") for point in sweep.document[model]]
    assert [(line["model"], line["steps"], line["metrics"]) for line in lines[:-1]] == [
        (model, point["steps"], point["metrics"]) for model, point in points
    ]
    assert lines[-1] == {
        **{"task": "a", "column": "y", "recipe": "y", "seed": 3, "status": "failed"},
        **{"reason": "no luck", "exit_status": 1, "wall_seconds": 61.0},
    }


def test_the_best_few_step_student() -> None:
    assert best_gap({"gap_closed": {"1": 50.0, "2": None, "4": 80.0, "8": 95.0}}) == (4, 80.0)
    assert best_gap({"gap_closed": {"1": 80.0, "4": 80.0}}) == (1, 80.0), "of equals the one of fewer steps"
    beyond = {"gap_closed": {"1": 130.0, "2": 99.0, "4": 340.0}}
    assert best_gap(beyond) == (1, 130.0), "beyond the full teacher it is fewer steps that count"
    assert best_gap({"gap_closed": {"1": None, "8": 95.0}}) is None
    assert best_gap({"gap_closed": {"8": 95.0}}, most=8) == (8, 95.0)
