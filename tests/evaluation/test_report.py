"""metrics.json, the table and report.html of a run that was really evaluated."""

import copy
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.environment import cpu_model, environment
from omnidistill.evaluation.metrics_file import read_metrics, write_metrics
from omnidistill.evaluation.report import write_report
from omnidistill.evaluation.table import figures, gap_text, number, percent, print_table, within

LOADING = {"src", "srcset", "poster", "data", "background", "xlink:href", "action"}


class Page(HTMLParser):
    """What a page loads, the text it shows, and whether its tags are closed."""

    VOID = frozenset({"meta", "link", "img", "br", "wbr", "hr", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.scalars: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            value = value or ""
            if name in LOADING or (name == "href" and tag != "a"):
                self.loads.append(value)
            if name == "href" and tag == "a":
                self.links.append(value)
            if name == "style":
                self.loads += re.findall(r"url\(([^)]*)\)", value)
            if name == "id":
                self.ids.append(value)
            if name == "data-scalar":
                self.scalars.append(value)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.loads += re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", data)
        else:
            self.words.append(data)


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def document(run: Path) -> dict:
    return copy.deepcopy(read_metrics(run))


# --- metrics.json -------------------------------------------------------------------------------------------------


def test_schema_2(document: dict) -> None:
    keys = "schema task recipe seed samples primary shown floor input teacher student gap_closed gap_interval falls"
    keys += " transition transitions"
    assert list(document) == [*keys.split(), "warnings", "training", "environment"]
    assert document["schema"] == 2 and document["samples"] == 1000 and document["input"] is None
    assert document["primary"] == {"name": "energy", "better": "lower"}
    assert [point["steps"] for point in document["teacher"]] == [1, 2, 4, 16]
    assert [point["nfe"] for point in document["teacher"]] == [1, 3, 7, 31]  # Heun
    assert [point["nfe"] for point in document["student"]] == [1, 4]
    for point in (*document["teacher"], *document["student"]):
        assert set(point) == {"steps", "nfe", "metrics", "seconds_per_sample", "interval"}
        assert set(point["metrics"]) == set(document["floor"])
        assert point["interval"][0] < point["metrics"]["energy"] < point["interval"][1]
    assert set(document["gap_closed"]) == set(document["gap_interval"]) == {"1", "4"}
    low, high = document["gap_interval"]["1"]
    assert low < document["gap_closed"]["1"] < high
    assert document["gap_closed"]["4"] is None, "0.115 of range with 0.03 to 0.14 on the resamples"


def test_files_of_schema_1_are_read_and_marked(document: dict, folder: Path) -> None:
    for key in ("samples", "shown", "input", "gap_interval", "falls", "warnings"):
        del document[key]
    for point in (*document["teacher"], *document["student"]):
        del point["interval"]
    (folder / "metrics.json").write_text(json.dumps({**document, "schema": 1}))
    found = read_metrics(folder)
    assert found["schema"] == 1 and found["input"] is None and found["teacher"][0]["interval"] is None
    assert "former statistic" in Page(write_report(folder).read_text()).text
    assert "±" not in "".join(map("".join, figures(found)[1]))
    (folder / "metrics.json").write_text(json.dumps({**document, "schema": 2}))
    with pytest.raises(UserError, match="samples is missing"):
        read_metrics(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gap_interval", {"1": [1.0]}),
        ("gap_interval", {"1": "x"}),
        ("falls", [[1]]),
        ("warnings", [3]),
        ("input", {"metrics": {"energy": "x"}}),
        ("samples", True),
    ],
)
def test_foreign_values_of_schema_2(document: dict, tmp_path: Path, key: str, value: object) -> None:
    document[key] = value
    (tmp_path / "metrics.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=key) as caught:
        read_metrics(tmp_path)
    assert_one_line(caught)


def test_inputs_and_named_metrics_are_in_the_table_and_on_the_page(document: dict, folder: Path) -> None:
    metrics = {**document["floor"], "energy": 0.5}
    document.update(shown=["stray"], input={"metrics": metrics, "interval": [0.4, 0.7]})
    write_metrics(document, folder)
    head, rows = figures(document)
    assert head[5] == "stray"
    (given,) = (row for row in rows if row[0] == "input")
    assert given[3] == "0.500 ±0.15"
    assert "input 0.500 ±0.15" in Page(write_report(folder).read_text()).text


def test_warnings_are_on_the_page_and_under_the_table(document: dict, folder: Path) -> None:
    from rich.console import Console

    document["warnings"] = ["The teacher <did> nothing."]
    document["falls"] = [[1, 4]]
    write_metrics(document, folder)
    page = Page(write_report(folder).read_text())
    assert "The teacher <did> nothing." in page.text
    assert "energy gets worse from 1 to 4 steps, by more than the interval" in page.text
    console = Console(file=io.StringIO(), width=80)
    print_table(document, console)
    assert "warning: The teacher <did> nothing." in console.file.getvalue()
    document.update(warnings=[], falls=[])
    write_metrics(document, folder)
    assert "More steps never make the student worse" in Page(write_report(folder).read_text()).text


def test_an_untrained_student_closes_no_gap(document: dict) -> None:
    assert document["gap_closed"]["1"] < 0


def test_round_trip(document: dict, tmp_path: Path) -> None:
    path = write_metrics(document, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "metrics.json"
    assert read_metrics(path) == read_metrics(path.parent) == document
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]  # no temporary file is left


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers_are_written(document: dict, tmp_path: Path, value: float) -> None:
    write_metrics(document, tmp_path)
    document["student"][0]["metrics"]["energy"] = value
    with pytest.raises(RunError, match=r"student\.0\.metrics\.energy"):
        write_metrics(document, tmp_path)
    assert read_metrics(tmp_path) != document  # the former file is still whole


@pytest.mark.parametrize(
    "key", ["schema", "task", "primary", "floor", "teacher", "gap_closed", "environment"]
)
def test_a_missing_key_is_named(document: dict, tmp_path: Path, key: str) -> None:
    del document[key]
    with pytest.raises(RunError, match=key):
        write_metrics(document, tmp_path)


def assert_one_line(caught: pytest.ExceptionInfo) -> None:
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(run: Path, tmp_path: Path, share: float) -> None:
    text = (run / "metrics.json").read_text()
    (tmp_path / "metrics.json").write_text(text[: int(share * len(text))])
    with pytest.raises(UserError, match="truncated") as caught:
        read_metrics(tmp_path)
    assert_one_line(caught)
    with pytest.raises(UserError, match="truncated"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "3",
        '{"schema": 2}',
        '{"schema": 3}',
        '{"schema": 1, "task": "x"}',
        '{"schema": NaN}',
        '"\\ud800"',
        "\x00\x01",
    ],
)
def test_foreign(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_metrics(tmp_path)
    assert_one_line(caught)


def test_foreign_points(document: dict, tmp_path: Path) -> None:
    for point in ({"steps": "1"}, 3, {**document["student"][0], "metrics": {"other": 1.0}}):
        document["student"][0] = point
        (tmp_path / "metrics.json").write_text(json.dumps(document))
        with pytest.raises(UserError, match=r"student\[0\]"):
            read_metrics(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metrics\.json"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match="nothing to report"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        write_report(tmp_path / "absent")


def test_a_place_that_cannot_be_written(document: dict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write") as caught:
        write_metrics(document, tmp_path / "file" / "folder")
    assert_one_line(caught)


# --- the page of a run ------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert page.loads, "pictures are expected inside the page"
    inside = re.compile(r"data:|#[mp][0-9a-f]{10}$")
    assert [address for address in page.loads if not inside.match(str(address))] == []
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    assert page.open == []


def test_references_inside_the_drawings_lead_somewhere(folder: Path) -> None:
    source = write_report(folder).read_text()
    wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', source))
    assert wanted
    assert wanted <= set(Page(source).ids)


def test_every_scalar_has_its_curve(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    head = (folder / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert page.scalars == head[2:]
    assert "never/seen" in page.scalars
    assert all(name.removeprefix("diagnostics/") in page.text for name in head[2:])
    assert "1 values that are not finite are left out" in page.text


@pytest.mark.parametrize(
    "value, said", [(97.26, "97.3 %"), (-3.21, "−3.2 %"), (-0.04, "0.0 %"), (0.0, "0.0 %")]
)
def test_a_share_is_said_with_a_true_minus_sign_and_no_negative_zero(value: float, said: str) -> None:
    assert percent(value) == said


def test_full_teacher_and_every_baseline_are_listed(folder: Path, document: dict) -> None:
    source = write_report(folder).read_text()
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr class=.*?</tr>", source)]
    for model in ("teacher", "student"):
        expected = [
            [model, str(p["steps"]), str(p["nfe"]), within(p["metrics"]["energy"], p["interval"])]
            for p in document[model]
        ]
        assert [row[:4] for row in rows if row[0] == model] == expected
    assert {row[1] for row in rows if row[0] == "teacher"} >= {"16", "1", "4"}
    assert [row[3] for row in rows if row[0] == "real data"] == [number(document["floor"]["energy"])]
    text = Page(source).text
    for steps in ("1 step", "4 steps", "16 steps (full)"):
        assert f"teacher, {steps}" in text


def test_tick_labels_are_what_was_plotted(folder: Path) -> None:
    """Each axis names its ticks differently: rounding coordinates must not round labels into one another."""
    for drawing in re.findall(r"<svg.*?</svg>", write_report(folder).read_text(), flags=re.S):
        labels = re.findall(r'<text style="[^"]*text-anchor: end[^"]*"[^>]*>([^<]*)</text>', drawing)
        assert len(labels) >= 2
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (97.25, "closes 97.2 % of the gap between 1 step and 16"),
        (0.0, "no better than the teacher at 1 step"),
        (-12.0, "no better than the teacher at 1 step (−12.0 %"),
        (104.0, "goes beyond the full teacher on this metric (104.0 %"),
        (None, "no gap to close"),
    ],
)
def test_the_headline_says_it_plainly(folder: Path, document: dict, gap: float | None, words: str) -> None:
    document["gap_closed"]["1"] = gap
    write_metrics(document, folder)
    assert words in Page(write_report(folder).read_text()).text


def test_command_paper_machine_and_cost(folder: Path, document: dict) -> None:
    page = Page(write_report(folder).read_text())
    for expected in (
        "omnidistill distill task=exact/gaussian_mixture recipe=dmd2 'task.weights=[1,2,1]' out=DIR",
        "Yin et al. 2024, DMD2, arXiv:2405.14867",
        document["environment"]["cpu"],
        document["environment"]["torch"],
        "network calls, fake score 180",
        "student updates 30",
    ):
        assert expected in page.text
    assert "https://arxiv.org/abs/2405.14867" in page.links
    (folder / "logs" / "command.txt").write_text("omnidistill demo out='a b' & <more>\n")
    assert "omnidistill demo out='a b' & <more>" in Page(write_report(folder).read_text()).text


def test_text_from_the_run_cannot_become_markup(folder: Path, document: dict) -> None:
    document["recipe"] = "<script>alert(1)</script>"
    write_metrics(document, folder)
    (folder / "config.yaml").write_text("note: '</pre><img src=https://example.org/x.png>'\n")
    page = Page(write_report(folder).read_text())
    assert "script" not in page.tags
    assert not [address for address in page.loads if str(address).startswith("http")]
    assert "recipe=<script>alert(1)</script>" in page.text


def test_samples_of_other_modalities(folder: Path) -> None:
    shutil.rmtree(folder / "samples")
    (folder / "samples").mkdir()
    for name in (
        "real.wav",
        "teacher_16.mp4",
        "student_1.jsonl",
        "student_1.cif",
        "student_4_002.txt",
        "other.png",
    ):
        (folder / "samples" / name).write_bytes(b'{"text": "a <b> c"}\n')
    page = Page(write_report(folder).read_text())
    assert page.tags.count("audio") == page.tags.count("video") == 1
    assert {link.split(";")[0] for link in page.links} >= {"data:application/x-ndjson", "data:chemical/x-cif"}
    assert page.text.count('{"text": "a <b> c"}') == 2
    assert "img" not in page.tags  # a file that belongs to nothing


def test_players_of_one_figure_say_which_file_they_play(folder: Path) -> None:
    for kind in ("noisy", "cleaned"):
        (folder / "samples" / f"student_1_1_{kind}.wav").write_bytes(b"RIFF")
    page = Page(write_report(folder).read_text())
    assert page.text.index("student, 1 step · item 1 cleaned") < page.text.index(
        "student, 1 step · item 1 noisy"
    )


def test_what_a_page_holds_is_capped_and_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnidistill.evaluation.report.samples.LARGEST", 3000)
    monkeypatch.setattr("omnidistill.evaluation.report.samples.WHOLE", 5000)
    shutil.rmtree(folder / "samples")
    (folder / "samples").mkdir()
    sizes = {"real.png": 3001, "real.wav": 2000, "teacher_16.wav": 2000, "student_1.wav": 2000}
    for name, size in sizes.items():
        (folder / "samples" / name).write_bytes(b"x" * size)
    for index in range(8):
        (folder / "samples" / f"student_4_{index}.txt").write_text(f"text {index}")
    page = Page(write_report(folder).read_text())
    assert page.tags.count("audio") == 2, "the third is one too many in all"
    assert "img" not in page.tags, "a picture that is too large"
    assert page.tags.count("pre") - 2 == 6 and "text 5" in page.text and "text 6" not in page.text
    assert "4 files are not shown. The page has at most 6 files of a kind for each model" in page.text


def test_sounds_and_films_play_and_pictures_come_first(folder: Path) -> None:
    samples = folder / "samples"
    for path in samples.glob("student_1*"):
        path.unlink()
    for name in ("student_1.wav", "student_1_1.wav", "student_1.png", "student_1.gif", "student_1.mp4"):
        (samples / name).write_bytes(b"bytes of it")
    source = write_report(folder).read_text()
    (figure,) = re.findall(r"<figure[^>]*><figcaption>student, 1 step</figcaption>.*?</figure>", source, re.S)
    kinds = re.findall(r'<(\w+)[^>]* src="data:([\w/]+);', figure)
    assert kinds[0] == ("img", "image/png")
    assert sorted(kinds[1:]) == [
        *(("audio", "audio/wav"), ("audio", "audio/wav"), ("img", "image/gif"), ("video", "video/mp4")),
    ]
    assert 'class="samples wide"' in source, "players want the whole width of a telephone"


def test_samples_are_told_by_their_names_and_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    from omnidistill.evaluation.report.run import find_samples

    (tmp_path / "samples").mkdir()
    names = [
        "real.wav",
        "real_1.wav",
        "real_10.wav",
        "real_2.wav",
        "real.png",
        "teacher_16_0.wav",
        "student_1.wav",
    ]
    names += ["student_10.wav", "student_1_2.gif", "teacher.png", "really.png", "notes.txt", "student_x.png"]
    for name in names:
        (tmp_path / "samples" / name).touch()
    found = {key: [path.name for path in paths] for key, paths in find_samples(tmp_path).items()}
    assert found == {
        ("real", None): ["real.png", "real.wav", "real_1.wav", "real_2.wav", "real_10.wav"],
        ("teacher", 16): ["teacher_16_0.wav"],
        ("student", 1): ["student_1.wav", "student_1_2.gif"],
        ("student", 10): ["student_10.wav"],
    }


def test_a_bare_run_still_has_its_page(folder: Path, document: dict) -> None:
    """Only metrics.json, and a log that ends in half a line."""
    for name in ("samples", "logs"):
        shutil.rmtree(folder / name)
    (folder / "config.yaml").unlink()
    text = Page(write_report(folder).read_text()).text
    assert (
        f"omnidistill distill task=exact/gaussian_mixture recipe=dmd2 seed={document['seed']} out=DIR" in text
    )
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.csv").write_text("update,seconds,loss\n1,0.1,2.0\n2,0.2,1.0\n3,0.")
    assert Page(write_report(folder).read_text()).scalars == ["loss"]


def test_the_same_run_makes_the_same_page(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert len(first) < 2_000_000


# --- the table, the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [200, *range(60, 100)])
def test_the_table_in_the_terminal(document: dict, width: int) -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width)
    print_table(document, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [
        line.replace(" %", "%").replace(" ±", "±").replace("no gap", "nogap").split()
        for line in text.splitlines()
        if re.match(r" +(teacher|student) ", line)
    ]
    assert "…" not in text
    expected = [
        [cell.replace(" ", "") for cell in row if cell]
        for row in figures(document)[1]
        if row[0] != "real data"
    ]
    for row, whole in zip(rows, expected, strict=True):
        assert row == whole[: len(row)]  # columns are left out, cells never cut
        assert len(row) >= 4
    assert [row[4] for row in rows if row[0] == "student"] == [
        gap_text(document, int(k)).replace(" ", "") for k in ("1", "4")
    ]
    assert f" {number(document['floor']['energy'])}" in next(x for x in text.splitlines() if "real data" in x)
    assert ("also measured:" in text) == (width < 100)


def test_without_a_student_there_is_still_a_table_and_a_page(document: dict, folder: Path) -> None:
    document.update(student=[], gap_closed={}, floor={})
    write_metrics(document, folder)
    assert "No student was evaluated" in Page(write_report(folder).read_text()).text
    text = "".join(map(" ".join, figures(document)[1]))
    assert "student" not in text and "real data" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.97, "0.970"),
        (0.026, "0.0260"),
        (10.833, "10.83"),
        (108.34, "108.3"),
        (-2.5, "-2.500"),
        (3e-7, "3.00e-07"),
        (None, ""),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_environment(tmp_path: Path) -> None:
    import platform

    import torch

    found = environment()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["cores"] >= 1 and found["threads"] == torch.get_num_threads()
    names = {"omnidistill", "python", "torch", "platform", "cpu", "cores", "threads", "device"}
    assert set(found) == names  # and no name of the host or its user
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert cpu_model(tmp_path / "absent")
