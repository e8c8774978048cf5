"""The whole report: what is written, and that the page needs nothing besides."""

import csv
import html
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_scores import MadeUp, replay, write_sweep

from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.protocols.restoration import BEFORE
from wsicl_jax.evaluate.records import ABOUT
from wsicl_jax.report.page import write_report
from wsicl_jax.report.statistics import mean_interval

NAME = 'A & B <script src="http://evil.example/x.js">'
METRICS = ("dice", "surface_dice", "hd95_mm", "psnr", "ssim")
RICH = MadeUp(
    models={"mix <i>": 0.0},
    data_sets={NAME: ("left <b>", "right"), "liver": ("whole",)},
    contexts=(1, 2),
    prompts=(1, 3),
    subjects=3,
    interactive=("box",),
    rounds=2,
    restoration=("denoising",),
)
SMALL = MadeUp(models={"m": 0.0}, data_sets={"liver": ("whole",)}, contexts=(1, 2), prompts=(1,))

TINY = MadeUp(
    models={"m": 0.0}, data_sets={"liver": ("whole",)}, kinds=("point",), contexts=(4,),
    prompts=(3,), subjects=1, hd95=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A report of everything there is, and the scores that it is of."""
    directory = tmp_path_factory.mktemp("rich")
    scores = write_sweep(directory / "sweep", RICH)
    files = write_report(
        [directory / "sweep"],
        directory / "out",
        title="Results & more",
        command="wsicl report 'a b'",
        replay=replay_of_the_first_target(),
    )
    return files, scores


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small sweep and its report."""
    directory = tmp_path_factory.mktemp("small")
    write_sweep(directory / "sweep", SMALL)
    write_report([directory / "sweep"], directory / "out", replay=replay_of_the_first_target())
    return directory / "sweep", directory / "out"


def replay_of_the_first_target():
    """Images of the first target alone; the others have none."""
    targets = []

    def replay_first(score):
        targets.append(score.episode)
        if score.episode != targets[0]:
            raise DataError("it is gone")
        return replay(score, contexts=1)

    return replay_first


class _Page(HTMLParser):
    """What a page would load, its text, and whether its elements are closed in order."""

    _VOID = ("meta", "link", "img", "br", "hr")
    _LOADS = ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "background")

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.text, self.ids, self.tags, self._open = [], [], [], set(), []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.loads += [value for name, value in attributes if name in self._LOADS]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        if self._open[-1:] != ["style"]:
            self.text.append(text)


def test_the_page_loads_nothing(rich):
    text = rich[0].page.read_text()
    page = _Page(text)
    assert {load[:22] if load.startswith("data:") else load[0] for load in page.loads} == {
        "data:image/png;base64,",
        "#",
    }
    assert not page.tags & {"script", "link", "iframe", "object", "image"}
    assert "@import" not in text
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))


def test_links_within_the_page_lead_somewhere_and_identifiers_are_unique(rich):
    page = _Page(rich[0].page.read_text())
    assert len(page.ids) == len(set(page.ids))
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)


def test_baselines_have_scores_but_no_key_numbers_and_no_findings_of_their_own(tmp_path):
    made_up = MadeUp(
        models={"prompt_mean": 0.0, "m": 0.0}, data_sets={"liver": ("whole",)}, subjects=2,
        kinds=("box",), contexts=(1, 2), prompts=(1,),
    )  # fmt: skip
    write_sweep(tmp_path / "sweep", made_up)
    text = write_report([tmp_path / "sweep"], tmp_path / "out").page.read_text()
    assert text.count('<div class="numbers">') == 1
    assert "Is m better than prompt_mean with WS-ICL (Box)?" in text
    assert "<h3>liver, prompt_mean</h3>" not in text
    assert "<td>prompt_mean</td>" in text


def test_names_are_escaped_wherever_they_stand(rich):
    text = rich[0].page.read_text()
    assert "<script" not in text
    assert "left <b>" not in text
    assert "mix <i>" not in text
    seen = "".join(_Page(text).text)
    for name in (NAME, "left <b>", "mix <i>", "Results & more", "wsicl report 'a b'"):
        assert name in seen
        assert html.escape(name) in text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")


def test_the_page_says_where_its_numbers_come_from(rich):
    seen = "".join(_Page(rich[0].page.read_text()).text)
    for part in ("wsicl sweep paper.yaml", "runs/mix <i>/9000", "hash of mix <i>", "c0ffee",
                 "jax 0.10.2", "1 x cpu", "kinds:\n  - box\n"):  # fmt: skip
        assert part in seen


def test_scores_csv_has_every_row_as_it_was_measured(rich):
    files, scores = rich
    with files.scores.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scores)
    for row, score in zip(sorted(rows, key=_key), sorted(map(vars, scores), key=_key), strict=True):
        for name, value in score.items():
            assert row[name] == ("" if value is None else str(value))


def _key(row):
    names = ("model", "data_set", "episode", "protocol", "kind", "prompts", "contexts", "round")
    return [str(row[name]) for name in names]


def test_every_number_of_the_summary_is_that_of_its_rows(rich):
    files, scores = rich
    with files.summary.open() as file:
        rows = list(csv.DictReader(file))
    covered = set()
    for row in rows:
        own = [s for s in scores if _in_row(s, row)]
        assert len(own) == int(row["targets"]) > 0
        assert len({s.subject for s in own}) == int(row["subjects"])
        assert float(row["seconds"]) == pytest.approx(np.mean([s.seconds for s in own]))
        for metric in METRICS:
            there = [s for s in own if getattr(s, metric) is not None]
            assert len(there) == int(row[f"{metric}_targets"])
            if not there:
                assert row[metric] == row[f"{metric}_low"] == row[f"{metric}_high"] == ""
                continue
            values = [getattr(s, metric) for s in there]
            expected = mean_interval(values, [s.subject for s in there])
            found = [float(row[f"{metric}{end}"]) for end in ("", "_low", "_high")]
            np.testing.assert_allclose(found, expected[:3], rtol=1e-12)
        covered |= {id(s) for s in own}
    assert len(covered) == len(scores)


def _in_row(score, row):
    same = all(str(getattr(score, n)) == row[n] for n in ("data_set", "kind", "contexts", "round"))
    prompts = score.protocol == "interactive" or str(score.prompts) == row["prompts"]
    structure = row["structure"] in ("all structures", score.structure)
    model = score.model in (row["model"], BEFORE)
    return same and prompts and structure and model and score.protocol == row["protocol"]


def test_every_figure_is_a_picture_beside_the_page(rich):
    names = {path.name for path in rich[0].figures}
    assert names == {path.name for path in rich[0].page.parent.glob("*.png")}
    assert {"contexts.png", "time.png", "rounds.png"} < names
    assert "case-a-b-script-src-http-evil-example-x-js-best.png" in names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in rich[0].figures)


def test_the_same_sweep_gives_the_same_bytes(small, tmp_path):
    sweep, out = small
    write_report([sweep], tmp_path, replay=replay_of_the_first_target())
    first, second = (
        {path.name: path.read_bytes() for path in directory.iterdir()}
        for directory in (out, tmp_path)
    )
    assert len(first) == 6
    assert first == second


def test_a_report_is_replaced_only_with_overwrite_and_then_without_the_old_figures(small, tmp_path):
    sweep, out = small
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.png").write_bytes(b"")
    with pytest.raises(DataError, match="holds a report; allow overwriting"):
        write_report([sweep], tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (out / "report.html").read_bytes()
    assert (tmp_path / "case-liver-best.png").exists()
    write_report([sweep], tmp_path, overwrite=True)
    left = {path.name for path in tmp_path.glob("*.png")}
    assert left == {"contexts.png", "time.png", "mine.png"}


def test_files_that_are_no_report_are_not_replaced_either(tmp_path):
    write_sweep(tmp_path / "sweep", TINY)
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(DataError, match=r"has a scores.csv already"):
        write_report([tmp_path / "sweep"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sweep", "scores.csv"}


def test_the_page_gives_the_reason_for_missing_pictures(tmp_path):
    write_sweep(tmp_path / "sweep", TINY)

    def gone(score):
        raise DataError("the store <is> gone")

    files = write_report([tmp_path / "sweep"], tmp_path / "out", replay=gone)
    assert "No picture of m: the store &lt;is&gt; gone." in files.page.read_text()


def test_a_directory_without_scores_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no scores; `wsicl sweep` writes them"):
        write_report([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_subject_and_one_context_size_make_a_page_without_intervals(tmp_path):
    write_sweep(tmp_path / "sweep", TINY)
    (tmp_path / "sweep" / ABOUT).unlink()  # what a sweep says of itself may be missing
    files = write_report([tmp_path / "sweep"], tmp_path / "out")
    assert [path.name for path in files.figures] == ["time.png"]
    seen = "".join(_Page(files.page.read_text()).text)
    assert "One subject, so no interval" in seen
    assert "Only one size of the context set was measured." in seen


def test_a_sweep_of_image_to_image_alone_has_its_table(tmp_path):
    made_up = MadeUp(
        models={"m": 0.0}, data_sets={"liver": ("whole",)}, kinds=(), restoration=("inpainting",)
    )
    write_sweep(tmp_path / "sweep", made_up)
    files = write_report([tmp_path / "sweep"], tmp_path / "out")
    assert files.figures == ()
    seen = "".join(_Page(files.page.read_text()).text)
    assert "Degraded1 context2 contexts4 contexts8 contextsDifference" in seen
    assert "inpaintingPSNR" in seen
    assert "inpaintingSSIM" not in seen  # once for both metrics


def test_notes_of_a_sweep_are_on_the_page(tmp_path):
    write_sweep(tmp_path / "sweep", TINY)
    about = json.loads((tmp_path / "sweep" / ABOUT).read_text())
    about["cells"] |= {"m/liver/in_context-box-9": "not there yet"}
    about["notes"] = ["The spleen was left out."]
    (tmp_path / "sweep" / ABOUT).write_text(json.dumps(about))
    seen = "".join(
        _Page(write_report([tmp_path / "sweep"], tmp_path / "out").page.read_text()).text
    )
    assert "The spleen was left out." in seen
    assert "the sweep is not finished; 1 of 2 cells are missing (m/liver/in_context-box-9)" in seen


def test_no_name_stops_a_report_or_becomes_a_formula(tmp_path):
    names = ("$x_{$", "_hidden", "x" * 300, "=cmd|' /C calc'!A0")
    odd = MadeUp(
        models={"=1+1": 0.0, "$m_{$": 0.1}, data_sets={name: names for name in names},
        kinds=("point", "mask"), contexts=(1, 2), prompts=(1,), subjects=2, interactive=("point",),
        rounds=2, hd95=False,
    )  # fmt: skip
    write_sweep(tmp_path / "sweep", odd)
    out = tmp_path / "out"
    write_report([tmp_path / "sweep"], out, replay=replay)
    rows = list(csv.reader((out / "scores.csv").read_text().splitlines()))
    cells = {cell for row in rows for cell in row}
    assert {"'=1+1", "'=cmd|' /C calc'!A0", "$x_{$"} <= cells
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert "$x_{$" in (out / "report.html").read_text()
