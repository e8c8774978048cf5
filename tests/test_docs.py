"""The documentation names what exists: links, commands, settings, files, code.

Pages are read as text, so a page that goes out of date fails here and not at a reader's desk.
"""

import ast
import configparser
import importlib
import importlib.util
import json
import re
import shlex
import string
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import matplotlib
import nibabel as nib
import numpy as np
import pytest
import yaml

import wsicl_jax
from wsicl_jax import cli, config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if page.parent != GENERATED)]
)
REFERENCE = sorted(GENERATED.glob("*.md"))
SETTINGS = [GENERATED / "settings.md"]
READERS = ("tutorials", "how-to", "reference", "explanation")

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"(?:configs|launch|docs|tests|wsicl_jax)/[\w./-]*\w\.\w+")


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(language, text) for _, language, text in _FENCE.findall(page.read_text())]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def inline_code(page: Path) -> list[str]:
    return _INLINE.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges and MkDocs make them."""
    names, repeats = set(), defaultdict(int)
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        names.add(f"{name}_{repeats[name]}" if repeats[name] else name)
        repeats[name] += 1
    return names


def commands(page: Path) -> Iterator[list[str]]:
    """Every `wsicl` command line of a page's blocks, as words."""
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}
    for block in blocks(page):
        if block.language not in ("bash", "console"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            words = shlex.split(string.Template(line).safe_substitute(slurm), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and words[0] == "wsicl":
                yield words


def ids(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


every_page = pytest.mark.parametrize("page", PAGES + REFERENCE, ids=ids(PAGES + REFERENCE))
written_page = pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))


def test_there_are_pages():
    assert {page.name for page in PAGES} >= {"README.md", "CONTRIBUTING.md", "glossary.md"}
    assert {page.name for page in REFERENCE} == {
        "settings.md",
        "commands.md",
        "python.md",
        "files.md",
    }


@every_page
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{link} leaves docs/, which the site does not show"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading in {target.name}"


def test_every_picture_is_shown_on_a_page():
    pictures = {picture.name for picture in DOCS.rglob("*.png")}
    linked = {Path(link).name for page in PAGES for link in _LINK.findall(page.read_text())}
    assert pictures <= linked


def test_files_and_tests_that_the_page_of_the_tests_names_exist():
    page = ROOT / "tests" / "README.md"
    for link in _LINK.findall(page.read_text()):
        assert link.startswith("https:") or (page.parent / link).is_file(), f"no {link}"
    code = "\n".join(file.read_text() for file in page.parent.rglob("test_*.py"))
    tests = set(re.findall(r"^def (test_\w+)", code, re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= tests


@pytest.mark.parametrize("folder", READERS)
def test_pages_say_at_their_head_whom_they_are_for(folder):
    for page in (DOCS / folder).glob("*.md"):
        assert re.search(r"^# .+\n\n\*For .+\*\n", page.read_text(), re.MULTILINE), page


@every_page
def test_every_command_line_parses(page, capsys):
    for words in commands(page):
        try:
            cli.parse(words[1:])
        except SystemExit as exit:
            if exit.code:
                pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")


@every_page
def test_commands_and_options_in_running_text_exist(page):
    parsers = dict(_parsers(cli.build_parser(), ()))
    options = {option for parser in parsers.values() for option in parser._option_string_actions}
    for code in inline_code(page):
        words = code.split()
        if words[0] == "wsicl" and len(words) > 1 and words[1].isalpha() and words[1].islower():
            verb = tuple(words[1:3]) if words[1] == "data" and len(words) > 2 else tuple(words[1:2])
            matching = [name for name in parsers if name[: len(verb)] == verb]
            assert matching, f"`{code}`: there is no such command"
            allowed = {o for name in matching for o in parsers[name]._option_string_actions}
            for word in words:
                if word.startswith("--"):
                    assert word.split("=")[0] in allowed | {"--version"}, f"`{code}`: no {word}"
        elif re.fullmatch(r"--[a-z-]+", words[0]) and not _other_programs_option(words[0]):
            assert words[0] in options, f"`{code}`: no command has {words[0]}"


def _parsers(parser, words: tuple[str, ...]):
    groups = [a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)]
    for group in groups:
        for word, inner in group.choices.items():
            yield from _parsers(inner, (*words, word))
    if not groups:
        yield words, parser


def _other_programs_option(option: str) -> bool:
    return option in ("--ntasks-per-node", "--gpus-per-node", "--nodes", "--durations", "--strict")


@every_page
def test_overrides_on_command_lines_are_settings_with_values_that_fit(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        options = cli.parse(words[1:]) if words[1:2] != ["--version"] else None
        overrides = getattr(options, "overrides", [])
        if not overrides:
            continue
        file = Path(getattr(options, "config", ""))
        own = file if file.is_file() else None
        if options.verb in ("sweep", "episodes"):
            config.load_sweep(own or "configs/sweeps/paper.yaml", overrides)
        elif options.verb == "ablate":
            config.load_ablation(own or "configs/sweeps/contexts.yaml", overrides)
        elif own:
            config.load_config(own, overrides)
        else:
            config.override_config(config.ExperimentConfig(), overrides)


@pytest.mark.parametrize("page", [*PAGES, *SETTINGS], ids=ids([*PAGES, *SETTINGS]))
def test_settings_in_running_text_exist(page):
    sections = {f.name for f in fields(config.ExperimentConfig)} - {"run", "seed"}
    pattern = re.compile(rf"({'|'.join(sections)})(\[\])?\.[a-z0-9_.]+")
    for code in inline_code(page):
        setting = pattern.match(code)
        if setting and not code.startswith(("data.json", "evaluation.json")):
            assert _exists(config.ExperimentConfig, _parts(setting[0])), f"`{code}` is no setting"


def _parts(key: str) -> list[str]:
    return [part for part in key.rstrip(".").replace("[]", "").split(".") if not part.isdecimal()]


def _exists(kind: Any, parts: list[str]) -> bool:
    if not parts:
        return True
    while not is_dataclass(kind):
        inner = get_args(kind)
        if not inner:
            return False
        if inner[0] is str or "str" in str(inner[0]) or kind.__origin__ is dict:
            return True  # a mapping, whose keys are the user's
        kind = inner[0]
    types = {f.name: f.type for f in fields(kind)}
    return parts[0] in types and _exists(types[parts[0]], parts[1:])


@every_page
def test_configurations_in_blocks_load(page):
    kinds = (config.ExperimentConfig, config.SweepConfig, config.AblationConfig)
    for block in blocks(page):
        if block.language != "yaml":
            continue
        settings = yaml.safe_load(block.text)
        settings.pop("inherits", None)
        fitting = [k for k in kinds if settings.keys() <= {f.name for f in fields(k)}]
        assert fitting, f"{sorted(settings)} are settings of no one configuration"
        if fitting[0] is config.ExperimentConfig:
            config.config_from_dict(settings)
        elif fitting[0] is config.SweepConfig:
            config.load_sweep(_written(settings))
        else:
            config.load_ablation(_written(settings))


@pytest.fixture(autouse=True)
def folder(tmp_path):
    _written.folder = tmp_path


def _written(settings: dict[str, Any]) -> Path:
    path = _written.folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@every_page
def test_files_of_the_repository_that_a_page_names_exist(page):
    for name in _FILE.findall(page.read_text()):
        assert (ROOT / name).exists(), f"there is no {name}"


def test_pages_that_code_and_configurations_name_exist():
    files = [*ROOT.glob("wsicl_jax/**/*.py"), *ROOT.glob("configs/**/*.yaml"), ROOT / "Makefile"]
    for file in files:
        for name in re.findall(r"docs/[\w/-]+\.\w+", file.read_text()):
            assert (ROOT / name).exists(), f"{file} names {name}"


@written_page
def test_python_blocks_are_python_that_imports_what_exists(page):
    for block in blocks(page):
        if block.language != "python":
            continue
        check_imports(block.text)


def check_imports(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "wsicl_jax":
            source = _source(node.module)
            for alias in node.names:
                assert re.search(rf"\b{alias.name}\b", source), f"no {alias.name} in {node.module}"


def _source(module: str) -> str:
    """Read, not imported: that would take long."""
    spec = importlib.util.find_spec(module)
    assert spec, f"there is no {module}"
    return Path(spec.origin).read_text()


def save_subjects(affine):
    """The images that pages name, with label maps of two structures beside them."""
    rng = np.random.default_rng(0)
    label = np.zeros((40, 50, 36), np.uint8)
    label[10:22, 18:26, 10:24] = 1
    label[10:22, 26:34, 10:24] = 2
    hippocampi = Path("Task04_Hippocampus")
    for folder in (hippocampi / "imagesTr", hippocampi / "labelsTr"):
        folder.mkdir(parents=True)
    numbers = ("001", "003", "006", "007", "124")
    subjects = [Path(name) for name in ("sub1", "sub2", "sub3", "sub4", "sub5", "target", "a", "b")]
    subjects += [hippocampi / f"imagesTr/hippocampus_{number}" for number in numbers]
    for subject in subjects:
        image = ((label > 0) + rng.normal(0, 0.1, label.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, affine), f"{subject}.nii.gz")
        mask = Path(str(subject).replace("imagesTr", "labelsTr"))
        end = "" if "Task04" in str(subject) else "_label"
        nib.save(nib.Nifti1Image(label, affine), f"{mask}{end}.nii.gz")
    return label.shape


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = save_subjects(np.eye(4))
    (code,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    exec(compile(code, "README.md", "exec"), {})
    first, second = (nib.load(f"{name}.nii.gz") for name in ("prediction", "corrected"))
    assert first.shape == second.shape == shape


@pytest.mark.slow
def test_the_python_of_the_page_on_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = save_subjects(np.array([[1, 0, 0, 0], [0, 1, 0, -50], [0, 0, 1, -8], [0, 0, 0, 1]]))
    bare = np.zeros((1, 48, 56, 48, 1), np.float32)
    names = {"context_images": bare[:, None], "context_prompts": bare[:, None]}
    for block in blocks(ROOT / "docs/how-to/python.md"):
        if block.language == "python":
            names |= {"target": bare} if "load_model" in block.text else {}
            exec(compile(block.text, "python.md", "exec"), names)
    assert nib.load("prediction.nii.gz").shape == shape
    assert {file.name for file in Path("masks").iterdir()} == {"a.nii.gz", "b.nii.gz"}
    assert names["prediction"].shape == bare.shape


def code_cells() -> list[str]:
    """The code of the notebook, cell by cell."""
    notebook = json.loads((DOCS / "tutorials/segment.ipynb").read_text())
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_the_notebook_is_small_and_imports_what_exists():
    assert (DOCS / "tutorials/segment.ipynb").stat().st_size < 20_000  # without outputs
    cells = code_cells()
    assert any('Segmenter.load("small")' in cell for cell in cells)
    for cell in cells:
        check_imports(cell)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict[str, Any] = {}
    for number, cell in enumerate(code_cells()):
        exec(compile(cell, f"cell {number}", "exec"), names)
    names["plt"].close("all")
    saved = np.asarray(nib.load("corrected.nii.gz").dataobj) > 0
    truth = names["masks"][2]
    before, after = (names["dice"](mask, truth) for mask in (names["first"].mask, saved))
    assert before > 0.5 and after > before + 0.05


@written_page
def test_json_blocks_with_a_context_set_fit_its_schema(page, tmp_path):
    for number, block in enumerate(blocks(page)):
        if block.language == "json" and '"context"' in block.text:
            file = tmp_path / f"{number}.json"
            file.write_text(json.dumps(json.loads(block.text)))
            assert _read_context(file).structures


def _read_context(file: Path):
    (command,) = [
        node.module
        for block in blocks(DOCS / "how-to" / "prompts.md")
        if block.language == "python"
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "read_context"
    ]
    return importlib.import_module(command).read_context(file)


@written_page
def test_extras_and_make_targets_that_a_page_names_exist(page):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = page.read_text()
    for extras in re.findall(r"(?:wsicl_jax|'\.|\"\.)\[([a-z,]+)\]", text):
        assert set(extras.split(",")) <= set(setup["options.extras_require"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert target in targets


def test_reference_pages_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.check_commands()
    for name, content in module.pages().items():
        assert (GENERATED / name).read_text() == content, "run `make reference`"


def test_the_version_is_the_same_everywhere(capsys):
    version = wsicl_jax.__version__
    with pytest.raises(SystemExit):
        cli.parse(["--version"])
    assert capsys.readouterr().out == f"wsicl {version}\n"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == version


def test_every_page_is_in_the_sites_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def files(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for child in node if isinstance(node, list) else getattr(node, "values", list)():
            yield from files(child)

    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(files(navigation)) == pages
