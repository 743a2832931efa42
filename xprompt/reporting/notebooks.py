"""Execute a notebook with papermill: its output live on the terminal, the executed copy kept and exported as HTML."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from xprompt.errors import ConfigError
from xprompt.files import write_atomically
from xprompt.reporting.html_export import to_page

_NOISE = (
    "Executing Cell",
    "Ending Cell",
    "Input Notebook",
    "Output Notebook",
    "Executing notebook",
    "Black is not",
    "Working directory",
)


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Return the parameters that a notebook declares in its cell tagged "parameters"."""
    return papermill.inspect_notebook(str(notebook))


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> str | None:
    """Execute one notebook in its own folder, with its output live on the terminal.

    Args:
        notebook: the source; it is not changed.
        output: the executed copy, with an .html of the same name; both are written where a cell fails, too.
        parameters: values for the notebook's declared parameters.

    Returns None, or the failing cell's error in one line. Raises `ConfigError` where the notebook has no such
    parameter, before any cell is run.
    """
    known = parameters_of(notebook)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ConfigError(
            f"{notebook.name} has no parameter {', '.join(unknown)}; its parameters: {', '.join(known) or 'none'}."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    error = None
    with _live_output():
        try:
            papermill.execute_notebook(
                str(notebook), str(output), parameters=dict(parameters), kernel_name="python3",
                cwd=str(notebook.parent), log_output=True, progress_bar=False, extra_arguments=["--log-level=40"],
            )  # fmt: skip
        except PapermillExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}".splitlines()[0]
        finally:  # interrupted, too: papermill has written the cells so far and ended the kernel
            if output.exists():
                _export(output)
    return error


def _export(path: Path) -> None:
    """Remove this machine's paths from an executed notebook, and write its HTML next to it."""
    notebook = nbformat.read(path, as_version=4)
    for name in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    nbformat.write(notebook, path)
    write_atomically(path.with_suffix(".html"), to_page(notebook, path.stem))


def _is_output(line: logging.LogRecord) -> bool:
    line.msg, line.args = line.getMessage().rstrip("\n"), ()
    return bool(line.msg) and not line.msg.startswith(_NOISE)


@contextmanager
def _live_output() -> Iterator[None]:
    """Send a notebook's output, which papermill logs, to standard output, and drop papermill's own remarks."""
    logger = logging.getLogger("papermill")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_is_output)
    before = (logger.level, logger.propagate)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
