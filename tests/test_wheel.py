"""The wheel and the sdist: what is in them, the same bytes twice, and the wheel used outside a checkout."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import xprompt

pytest.importorskip("hatchling", reason="builds need hatchling, of the extra `test`")
pytest.importorskip("hatch_fancy_pypi_readme", reason="builds need hatch-fancy-pypi-readme, of the extra `test`")

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("xprompt", "notebooks", "tests", ".binder", ".ci", ".github")


def build(tree: Path, target: Path) -> tuple[Path, Path]:
    """Build both without a network: the wheel and the sdist."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(target)], cwd=tree, capture_output=True, check=True,
        timeout=120, env={name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"},
    )  # fmt: skip
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project's files in another place, with other times and permissions, and a stray file that git ignores."""
    tree = tmp_path_factory.mktemp("another place") / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, tree / path.name)
    for name in PLACES:
        shutil.copytree(ROOT / name, tree / name)
    (tree / "notebooks" / ".ipynb_checkpoints").mkdir(exist_ok=True)
    (tree / "notebooks" / ".ipynb_checkpoints" / "00_walkthrough-checkpoint.ipynb").write_text("{}")
    for path in tree.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (10**9, 10**9))
    return tree


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel's files, unpacked as an installer does it."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(folder)
    return folder


def test_two_builds_give_the_same_bytes(built, copy, tmp_path):
    for first, second in zip(built, build(copy, tmp_path / "dist"), strict=True):
        assert first.name == second.name and first.read_bytes() == second.read_bytes(), first.name


def test_the_wheel_of_an_sdist_is_the_checkouts(built, tmp_path):
    with tarfile.open(built[1]) as sdist:
        sdist.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    wheel, _ = build(tmp_path / built[1].name.removesuffix(".tar.gz"), tmp_path / "dist")
    assert wheel.read_bytes() == built[0].read_bytes()


def test_the_wheel_holds_the_package_with_notebooks_and_guides_and_nothing_else(built, installed):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    kept = {path for place in ("xprompt", "notebooks") for path in (ROOT / place).rglob("*") if path.is_file()}
    kept = {path for path in kept if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)}
    inside = {str(path.relative_to(ROOT)): path for path in kept}
    inside = {name if name.startswith("xprompt/") else f"xprompt/{name}": path for name, path in inside.items()}
    assert names == set(inside)
    for name in (name for name in names if name.startswith("xprompt/notebooks/")):
        assert (installed / name).read_bytes() == inside[name].read_bytes()
    assert "xprompt/notebooks/00_walkthrough.ipynb" in names and "xprompt/notebooks/guides/running.md" in names


def test_the_wheel_brings_the_command(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert wheel.read(name).decode().split() == ["[console_scripts]", "xprompt", "=", "xprompt.__main__:main"]


def test_the_guides_line_copies_the_notebooks_out_of_the_wheel(installed, tmp_path):
    guide = (ROOT / "notebooks" / "guides" / "running.md").read_text(encoding="utf-8")
    (line,) = re.findall(r'^python -c "(.*NOTEBOOKS.*)"$', guide, re.M)
    done = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTHONPATH": str(installed)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "notebooks" / "00_walkthrough.ipynb").exists()


def test_the_sdist_holds_what_its_name_says(built):
    with tarfile.open(built[1]) as sdist:
        tops = {name.split("/")[1] for name in sdist.getnames()}
    assert {
        "xprompt",
        "notebooks",
        "tests",
        "noxfile.py",
        "constraints.txt",
        "LICENSE",
        "README.md",
        ".gitattributes",
    } <= tops
    assert "reports" not in tops and "dist" not in tops


def test_an_index_shows_links_that_lead_somewhere(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(wheel.read(metadata))
    assert about["Version"] == xprompt.__version__ and about["Description-Content-Type"] == "text/markdown"
    assert "Paper, https://arxiv.org/abs/2210.04457" in about.get_all("Project-URL")
    text = about.get_payload(decode=True).decode()
    assert text.startswith("# XPrompt") and "Apache-2.0" in text
    for link in re.findall(r"\]\(([^)]*)\)", text):
        assert link.startswith(("https://", "#")), f"{link} leads nowhere on an index"
    for path in re.findall(r"\(`([\w./]+)`\)", text):  # what stands in a link's place is a file of the checkout
        assert (ROOT / path).exists(), path


@pytest.mark.timeout(240)
def test_the_wheel_works_in_an_empty_folder_outside_a_checkout(installed, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*") if path.is_file()}
    script = (
        "import xprompt, sys; assert sys.argv[1] in xprompt.__file__, xprompt.__file__\n"
        "from xprompt.__main__ import main\n"
        "quick = ['reproduce', '--quick', '--profile', 'nano', '--only', 'A_tasks_and_templates']\n"
        "run = ['run', '--task', 'rte', '--profile', 'tiny', '--method', 'majority']\n"
        "print([main(['plan', '--profile', 'tiny', '--tasks', 'rte']), main(run), main(quick)])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(installed)], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.stdout.endswith("[0, 0, 0]\n"), done.stdout + done.stderr
    report = tmp_path / "reports" / "nano-quick"
    assert (report / "index.html").exists() and (report / "tables" / "tab10.csv").exists()
    assert list((tmp_path / "reports" / "tiny" / "runs").glob("*/record.json"))
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*") if path.is_file()} == before
