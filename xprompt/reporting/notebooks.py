"""Execute a notebook with papermill: its output live on the terminal, the executed copy kept.

Whatever ends a notebook early (an error in a cell, its time limit, the death of its kernel) is told in a sentence, on
the terminal and in the executed copy, at the cell that was running.
"""

from __future__ import annotations

import logging
import os
import signal
import site
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

import xprompt
from xprompt.errors import ConfigError
from xprompt.files import write_atomically

KERNEL, LANGUAGE = "python3", "python"
START_TIMEOUT = 300  # seconds until a kernel must answer; imports on a busy disk take their time
OUTPUT_TIMEOUT = 600  # seconds for the output of a cell that has ended, which may be much
LONGEST = 1_000_000  # characters of one output that are kept
GIVES_WAY = 10  # the niceness of a kernel whose notebooks take what time the runs leave
_FORGET = "get_ipython().reset(new_session=True); __import__('gc').collect()"
_NOISE = (
    "Executing Cell",
    "Ending Cell",
    "Input Notebook",
    "Output Notebook",
    "Executing notebook",
    "Black is not",
    "Working directory",
    "Timeout waiting for",
    "Kernel died while",
)


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Return the parameters that a notebook declares in its cell tagged "parameters".

    Raises `ConfigError` where the file is no notebook.
    """
    try:
        node = nbformat.read(notebook, as_version=4)
        node.metadata.kernelspec = {"name": KERNEL, "language": LANGUAGE, "display_name": KERNEL}  # it may have none
        return papermill.inspect_notebook(node)
    except Exception as error:  # not JSON, not a notebook's JSON, not readable: each library on the way has its own
        raise ConfigError(
            f"{notebook} is no notebook that can be read ({_describe(error)}): open it in Jupyter to repair "
            "it, or move it out."
        ) from error


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    timeout: float | None = None,
    *,
    kernel: Kernel | None = None,
    label: str = "",
) -> str | None:
    """Execute one notebook in its own folder, with its output live on the terminal.

    Args:
        notebook: the source; it is not changed.
        output: the executed copy; it is written where it does not come to its end, too, as far as it went.
        parameters: values for the notebook's declared parameters.
        timeout: seconds for the whole notebook, after which its kernel is ended; None: no limit.
        kernel: one that executes several notebooks of a folder, each from an empty namespace; None: a kernel for this
            one, which ends with it.
        label: stands before each line on the terminal.

    Returns None, or in one line what ended it early. Raises `ConfigError` where the file is no notebook, or has no such
    parameter, before any cell is run.
    """
    known = parameters_of(notebook)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ConfigError(
            f"{notebook.name} has no parameter {', '.join(unknown)}; its parameters: {', '.join(known) or 'none'}."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    limit = {} if timeout is None else {"timeout_func": _time_left(time.monotonic() + timeout)}
    error, reason, whole = None, None, False
    given, kernel = kernel, kernel or Kernel(notebook.parent)
    with _live_output(label):
        try:
            kernel.empty()
            papermill.execute_notebook(
                _escape(notebook), _escape(output), parameters=dict(parameters), kernel_name=KERNEL, language=LANGUAGE,
                log_output=True, progress_bar=False, extra_arguments=["--log-level=40"], km=kernel,
                start_timeout=START_TIMEOUT, iopub_timeout=OUTPUT_TIMEOUT, **limit,
            )  # fmt: skip
            whole = True
        except PapermillExecutionError as failure:
            error, whole = f"{failure.ename}: {failure.evalue}".splitlines()[0], True
        except CellTimeoutError:
            reason = f"the notebook reached its time limit of {(timeout or OUTPUT_TIMEOUT) / 3600:.4g} hours"
        except DeadKernelError:
            kernel.end()  # which tells how it ended
            reason = f"the notebook's kernel died: {_describe_exit(kernel.exit_code)}"
        except Exception as failure:  # nothing that happens to one notebook may end the others
            reason = f"the notebook could not be executed: {_describe(failure)}"
        finally:  # interrupted, too: papermill has written the cells so far
            if given is None or not whole:
                kernel.end()
            if output.exists():
                number = _export(output, reason)
                reason = reason and number and f"{reason}, in cell {number}" or reason
    return error or reason


class Kernel(AsyncKernelManager):
    """A kernel for the notebooks of a folder, that tells how its process ended, and whose processes all end with it.

    Its process starts with the first notebook, and again with the next one after it has ended. The workers that a cell
    started (joblib's, say) outlive a kernel that is killed, and would go on with its runs.

    Args:
        folder: of the notebooks, where their cells run.
        gives_way: whether busy processes beside it go first, where the system knows priorities as Unix does.
    """

    exit_code: int | None = None  # of its last process that ended by itself; negative: the signal's number

    _session: int | None = None  # jupyter_client starts each kernel in a session of its own, named by its process

    def __init__(self, folder: Path, gives_way: bool = False) -> None:
        super().__init__(kernel_name=KERNEL)
        self._folder = folder
        self._gives_way = gives_way
        self._client: Any = None  # of the last notebook

    def client(self, **options: Any) -> Any:
        self._client = super().client(**options)
        return self._client

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # as AsyncKernelManager's is
        self.exit_code, self.shutting_down = None, False
        await super().start_kernel(**{**options, "cwd": str(self._folder), "env": environment()})
        self._session = getattr(self.provisioner, "pid", None)
        if self._gives_way and self._session and hasattr(os, "setpriority"):
            with suppress(OSError):
                nice = max(GIVES_WAY, os.getpriority(os.PRIO_PROCESS, self._session))
                os.setpriority(os.PRIO_PROCESS, self._session, nice)
            with suppress(OSError):  # Linux shares time by session first, unless it is told not to
                Path(f"/proc/{self._session}/autogroup").write_text(str(GIVES_WAY), encoding="utf-8")

    async def cleanup_resources(self, restart: bool = False) -> None:  # type: ignore[override]
        if self.provisioner is not None and self.provisioner.has_process and not self.shutting_down:
            self.exit_code = await self.provisioner.poll()
        await super().cleanup_resources(restart=restart)
        if not restart:
            self.kill()
            self._leave()
            self.provisioner = None  # of a process that is gone; the next one has its own, and its own sockets
            self.context = self._context_default()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        if self._session and hasattr(os, "getsid"):
            for process in psutil.process_iter():
                with suppress(OSError, psutil.Error):
                    if os.getsid(process.pid) == self._session:
                        process.kill()

    def empty(self) -> None:
        """Forget what the notebook before defined; modules stay imported, which is what takes a notebook long."""
        if self.has_kernel:
            run_sync(self._forget)()

    def interrupt(self) -> None:
        """Interrupt the cell that is running, as Ctrl-C does; from any thread."""
        with suppress(RuntimeError, OSError):  # no process now
            run_sync(self.interrupt_kernel)()

    def end(self) -> None:
        """Interrupt what is running and end the process with all that it started; nothing where there is none."""
        if self.has_kernel:
            run_sync(self._end)()

    async def _forget(self) -> None:
        await self._client.execute(_FORGET, silent=True, store_history=False, reply=True, timeout=START_TIMEOUT)
        self._leave()

    def _leave(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
            self._client = None

    async def _end(self) -> None:
        if await self.is_alive():
            await self.shutdown_kernel()
        else:
            await self.cleanup_resources()


def environment() -> dict[str, str]:
    """The environment in which a kernel imports this very package, and not another one that is installed."""
    package = Path(xprompt.__file__).parents[1]
    if package in map(Path, [*site.getsitepackages(), site.getusersitepackages()]):  # looked in last, as it should be
        return dict(os.environ)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))}


def _escape(path: Path) -> str:
    """The path as papermill takes it, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _time_left(deadline: float) -> Any:
    """What nbclient asks before each cell, in whole seconds: the limit is the notebook's, not the cell's."""
    return lambda cell: max(1, round(deadline - time.monotonic()))


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "its process is gone"
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    likely = {"SIGKILL": ", as when the memory runs out", "SIGSEGV": ", a crash in compiled code"}.get(name, "")
    return f"its process was ended by {name}{likely}"


def _export(path: Path, reason: str | None) -> int | None:
    """Finish an executed notebook, and return the number of the cell that `reason` ended.

    This machine's paths are removed, very long outputs are shortened, and `reason` stands below the cell that was
    running.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception:  # cut short while it was written, as on a full disk; what is told is why it ended
        return None
    for name in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    number = None if reason is None else _note(notebook, reason)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _shorten(output)
    write_atomically(path, nbformat.writes(notebook))
    return number


def _note(notebook: NotebookNode, reason: str) -> int | None:
    """Put `reason` below the cell that was running; return its number, counted from 1 over all cells."""
    begun = [i for i, cell in enumerate(notebook.cells) if cell.metadata.get("papermill", {}).get("start_time")]
    if not begun:
        return None
    for cell in notebook.cells[begun[-1] + 1 :]:
        cell.metadata.papermill.status = "pending"  # papermill calls them completed
    cell = notebook.cells[begun[-1]]
    cell.metadata.papermill.update(status="failed", exception=True)
    if cell.cell_type == "code":
        cell.outputs.append(nbformat.v4.new_output("error", ename="Stopped", evalue=reason, traceback=[reason]))
    return begun[-1] + 1


def _shorten(output: NotebookNode) -> None:
    """Keep the two ends of a text that no page can show; of other data that long, a sentence."""
    for part, name in [(output, "text"), *((output.get("data", {}), kind) for kind in output.get("data", {}))]:
        text = part.get(name)
        if isinstance(text, str) and len(text) > LONGEST and not name.startswith("image/"):
            cut = f"\n… {len(text) - LONGEST:,} characters are left out here …\n"
            plain = name in ("text", "text/plain")
            part[name] = text[: LONGEST // 2] + cut + text[-LONGEST // 2 :] if plain else cut


@contextmanager
def _live_output(label: str) -> Iterator[None]:
    """Send the output of this thread's notebook, which papermill logs, to standard output, each line after `label`.

    Papermill's own remarks are dropped.
    """
    logger, thread = logging.getLogger("papermill"), threading.get_ident()

    def is_output(line: logging.LogRecord) -> bool:
        if line.thread != thread:
            return False
        text = line.getMessage().rstrip("\n")
        return bool(text) and not text.startswith(_NOISE)

    class Labelled(logging.Formatter):
        def format(self, line: logging.LogRecord) -> str:
            return "\n".join(label + part for part in line.getMessage().rstrip("\n").split("\n"))

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Labelled())
    handler.addFilter(is_output)
    logger.setLevel(logging.INFO)  # for good: another thread's notebook may go on
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
