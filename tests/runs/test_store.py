"""The store: names, whole writes, damage, and two processes after one run."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xprompt import files
from xprompt.config.run_config import RunConfig
from xprompt.errors import StoreError
from xprompt.runs.store import Store, run_id

NAME = "0123456789abcdef"


def record(name: str = NAME, score: float = 0.5) -> dict:
    return {"run": name, "score": score, "history": [{"step": 0, "loss": 1.25}], "text": "−½ ö"}


def write_files(folder: Path) -> None:
    (folder / "tuned_prompt").mkdir()
    (folder / "tuned_prompt" / "prompt.safetensors").write_bytes(b"\x00\x01\x02")
    (folder / "tuned_prompt" / "prompt.json").write_text("{}")


def test_a_run_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path)
    folder = store.put(record(), write_files)
    assert store.get(NAME) == record()
    assert folder == store.path(NAME) == tmp_path / "runs" / NAME
    assert (folder / "tuned_prompt" / "prompt.safetensors").read_bytes() == b"\x00\x01\x02"
    assert list(store.records()) == [record()]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "folders", "files"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_whom_the_umask_lets_in_may_read_a_run(tmp_path, umask, folders, files):
    before = os.umask(umask)
    try:
        folder = Store(tmp_path).put(record(), write_files)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == folders and (folder / "record.json").stat().st_mode & 0o777 == files


def test_an_unknown_run_is_absent_and_a_store_makes_no_folders(tmp_path):
    store = Store(tmp_path / "new")
    assert store.get(NAME) is None
    assert list(store.records()) == []
    assert not (tmp_path / "new").exists()


def test_a_second_put_replaces_the_first_whole(tmp_path):
    store = Store(tmp_path)
    store.put(record(score=0.5), write_files)
    store.put(record(score=0.75))
    assert store.get(NAME)["score"] == 0.75
    assert not (store.path(NAME) / "tuned_prompt").exists()
    assert list((store.runs / ".staging").iterdir()) == []


def test_records_are_in_the_order_of_their_names(tmp_path):
    store = Store(tmp_path)
    for digit in "c0a":
        store.put(record(digit * 16))
    assert [found["run"][0] for found in store.records()] == ["0", "a", "c"]


@pytest.mark.parametrize("name", ["", "../../etc", "0123", NAME.upper(), NAME + "0"])
def test_a_name_that_no_run_has_is_refused(tmp_path, name):
    with pytest.raises(StoreError, match="16 hexadecimal"):
        Store(tmp_path).get(name)
    with pytest.raises(StoreError, match="16 hexadecimal"):
        Store(tmp_path).put(record(name))


def test_only_json_and_safetensors_are_stored(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=r"weights\.pt"):
        store.put(record(), lambda folder: (folder / "weights.pt").write_bytes(b"code"))
    with pytest.raises(StoreError, match="another name"):
        store.put(record(), lambda folder: (folder / "record.json").write_text("{}"))
    with pytest.raises(StoreError, match="plain JSON"):
        store.put({**record(), "score": object()})
    assert store.get(NAME) is None
    assert list((store.runs / ".staging").iterdir()) == []


def test_a_number_that_is_not_finite_is_null_so_the_file_is_strict_json(tmp_path):
    store = Store(tmp_path)
    store.put({**record(), "losses": [1.0, float("nan"), float("inf")]})
    assert store.get(NAME)["losses"] == [1.0, None, None]
    text = (store.path(NAME) / "record.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))


def _flip_record(folder: Path) -> None:
    path = folder / "record.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"score": 0.5', '"score": 0.6'), encoding="utf-8")


def _cut_record(folder: Path) -> None:
    path = folder / "record.json"
    path.write_bytes(path.read_bytes()[:-40])


def _change_file(folder: Path) -> None:
    (folder / "tuned_prompt" / "prompt.safetensors").write_bytes(b"\x00\x01\x03")


def _lose_file(folder: Path) -> None:
    (folder / "tuned_prompt" / "prompt.json").unlink()


def _lose_record(folder: Path) -> None:
    (folder / "record.json").unlink()


def _empty_record(folder: Path) -> None:
    (folder / "record.json").write_text("[]")


@pytest.mark.parametrize(
    "harm", [_flip_record, _cut_record, _change_file, _lose_file, _lose_record, _empty_record], ids=lambda f: f.__name__
)
def test_a_damaged_run_is_moved_aside_and_counts_as_absent(tmp_path, harm):
    store = Store(tmp_path)
    store.put(record(), write_files)
    harm(store.path(NAME))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert store.get(NAME) is None
    assert not store.path(NAME).exists()
    assert len(list((store.runs / ".damaged").iterdir())) == 1
    assert list(store.records()) == []
    store.put(record(), write_files)
    assert store.get(NAME) == record()


def test_a_record_under_another_runs_name_is_not_believed(tmp_path):
    store = Store(tmp_path)
    store.put(record())
    os.rename(store.path(NAME), store.path("f" * 16))
    with pytest.warns(RuntimeWarning, match="the record is that of run 0123456789abcdef"):
        assert store.get("f" * 16) is None


KILLED = """
    import os, signal, sys
    from xprompt.runs.store import Store
    store = Store(sys.argv[1])
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    where = sys.argv[2]
    if where == "before the record":
        write = lambda folder: ((folder / "a.json").write_text("{"), die())
    else:
        write = lambda folder: (folder / "a.json").write_text("{}")
        os.replace = die
    store.put({"run": "0123456789abcdef", "score": 1.0}, write)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("where", ["before the record", "before the move"])
@pytest.mark.parametrize("before", [False, True])
def test_a_process_killed_while_writing_leaves_no_half_run(tmp_path, where, before):
    store = Store(tmp_path)
    if before:
        store.put(record())
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), where], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert store.get(NAME) == (record() if before else None)
    store.put(record(score=0.25))
    assert store.get(NAME)["score"] == 0.25


def run_both(target, *arguments: tuple) -> None:
    """Start one process for each tuple of arguments, let them go at once, and wait for both to succeed."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    workers = [context.Process(target=target, args=(ready, *own)) for own in arguments]
    for worker in workers:
        worker.start()
    ready.set()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0


def _compete(ready, root: str, log: str) -> None:
    store = Store(root)
    ready.wait()
    with store.lock(NAME):
        if store.get(NAME) is None:
            with open(log, "a") as stream:
                stream.write(f"{os.getpid()}\n")
            time.sleep(0.3)
            store.put(record())


def test_two_processes_do_one_run_once(tmp_path):
    log = tmp_path / "log"
    run_both(_compete, *[(str(tmp_path), str(log))] * 2)
    assert len(log.read_text().splitlines()) == 1
    assert Store(tmp_path).get(NAME) == record()


def _overwrite(ready, root: str, score: float) -> None:
    store = Store(root)
    ready.wait()
    for _ in range(20):
        store.put(record(score=score), write_files)


def test_writers_without_a_lock_still_leave_a_whole_run(tmp_path):
    run_both(_overwrite, (str(tmp_path), 0.1), (str(tmp_path), 0.9))
    assert Store(tmp_path).get(NAME)["score"] in (0.1, 0.9)


def test_a_run_that_goes_away_while_it_is_replaced_is_no_error(tmp_path, monkeypatch):
    """A writer finds a run there, and before it looks again another writer has moved it aside."""
    replace, refused = os.replace, []

    def refuse_once(source, target):
        if not refused:
            refused.append(target)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_once)
    Store(tmp_path).put(record())
    assert refused == [Store(tmp_path).path(NAME)] and Store(tmp_path).get(NAME) == record()


def test_a_held_run_says_so_when_the_time_is_up(tmp_path):
    store = Store(tmp_path)
    with store.lock(NAME), pytest.raises(StoreError, match="held by another"), Store(tmp_path).lock(NAME, timeout=0.05):
        pytest.fail("two holders of one run")
    with store.lock(NAME, timeout=0.05):
        pass


def test_a_name_is_sixteen_digits_and_every_part_counts():
    parts = {"config": {"task": "rte", "seed": 0}, "data": "d", "backbone": "b", "version": "1"}
    name = run_id(parts["config"], parts["data"], parts["backbone"], parts["version"])
    assert len(name) == 16
    assert name == run_id({"seed": 0, "task": "rte"}, "d", "b", "1")
    others = [
        run_id({"task": "rte", "seed": 1}, "d", "b", "1"),
        run_id({"task": "rte"}, "d", "b", "1"),
        run_id(parts["config"], "d2", "b", "1"),
        run_id(parts["config"], "d", "b2", "1"),
        run_id(parts["config"], "d", "b", "2"),
    ]
    assert len({name, *others}) == 6


def test_a_name_takes_settings_objects_too():
    config = RunConfig(task="rte")
    assert run_id(config, "d", "b", "1") == run_id(config.settings(), "d", "b", "1")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=50)
@given(value=JSON)
def test_any_json_value_survives(tmp_path_factory, value):
    store = Store(tmp_path_factory.mktemp("any"))
    store.put({"run": NAME, "value": value})
    assert store.get(NAME)["value"] == value


def test_a_lock_file_goes_with_its_holder(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.lock(NAME):
        assert list(store.locks.iterdir())
        raise ZeroDivisionError
    assert not list(store.locks.iterdir())


def _count(ready, root: str, log: str) -> None:
    """Hold one run again and again, each time with a new lock file; two at once would be seen in the log."""
    store = Store(root)
    ready.wait()
    for _ in range(100):
        with store.lock(NAME):
            number = int(Path(log).read_text())
            time.sleep(0.0005)
            Path(log).write_text(str(number + 1))


def test_locks_that_come_and_go_have_one_holder_at_a_time(tmp_path):
    log = tmp_path / "log"
    log.write_text("0")
    run_both(_count, *[(str(tmp_path), str(log))] * 2)
    assert log.read_text() == "200"


def test_leftovers_are_cleared_and_what_is_held_stays(tmp_path):
    store, other, busy = Store(tmp_path), "f" * 16, "e" * 16
    for name in (NAME, other, busy):
        (store.unfinished / name / "tuning").mkdir(parents=True)
        (store.unfinished / name / "tuning" / "state.json").write_text("{}")
        (store.staging / f"{name}-x").mkdir(parents=True)
    store.locks.mkdir()
    (store.locks / f"{other}.lock").touch()
    store.put(record())  # finished; the state is older
    with store.lock(busy):
        (store.staging / f"{busy}-y").mkdir()
        store.clear_leftovers()
        assert [path.name for path in store.staging.iterdir()] == [f"{busy}-y"]
        assert [path.name for path in store.locks.iterdir()] == [f"{busy}.lock"]
    assert {path.name for path in store.unfinished.iterdir()} == {other, busy}  # these can be resumed
    assert store.leftovers() == {store.staging / f"{busy}-y": "half-written"}


def test_the_state_of_a_run_that_is_done_again_is_no_leftover(tmp_path):
    store = Store(tmp_path)
    store.put(record())
    state = store.unfinished / NAME / "tuning" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    later = time.time() + 5
    os.utime(state, (later, later))
    store.clear_leftovers()
    assert state.exists()


def test_a_run_may_lie_elsewhere_behind_a_link(tmp_path):
    store = Store(tmp_path / "store")
    folder = store.put(record(), write_files)
    os.rename(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert list(store.records()) == [record()] and folder.is_symlink()
    store.put(record() | {"score": 0.75})  # done again
    assert store.get(NAME)["score"] == 0.75 and (tmp_path / "elsewhere" / "record.json").exists()


@pytest.mark.parametrize("what", ["record.json", "tuned_prompt/prompt.safetensors"])
def test_a_link_out_of_a_run_is_not_followed(tmp_path, what):
    store = Store(tmp_path / "store")
    place = store.put(record(), write_files) / what
    os.rename(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match="a link to outside"):
        assert store.get(NAME) is None
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_run_that_cannot_be_read_now_is_not_moved_aside(tmp_path, monkeypatch, number):
    store = Store(tmp_path)
    store.put(record())

    def fail(self, *given, **named):
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fail)
        with pytest.raises(StoreError, match="cannot be read"):
            store.get(NAME)
    assert store.get(NAME) == record()


def test_a_damaged_run_in_a_store_that_cannot_be_changed_counts_as_absent(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put(record())
    _cut_record(store.path(NAME))

    def refuse(*given):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(RuntimeWarning, match="left where it is"):
        assert store.get(NAME) is None


# A folder is replaced -------------------------------------------------------------------------------------------------


@pytest.fixture
def old_and_new(tmp_path):
    folders = []
    for name in ("old", "new"):
        folder = tmp_path / name / name
        folder.mkdir(parents=True)
        (folder / "file.json").write_text(name)
        folders.append(folder)
    return folders


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(old_and_new):
    old, new = old_and_new
    files.replace_folder(new, old)
    assert (old / "file.json").read_text() == "new"
    assert list(old.parent.iterdir()) == [old] and list(new.parent.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")], ids=repr)
def test_where_the_new_folder_does_not_come_the_old_one_is_put_back(old_and_new, monkeypatch, error):
    old, new = old_and_new
    replace, moved = os.replace, []

    def fails(source, target):
        if Path(source) == new and moved:
            raise error
        moved.append(source)  # first the new one, onto a folder with files; then the old one, aside
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(type(error)):
        files.replace_folder(new, old)
    assert (old / "file.json").read_text() == "old" and (new / "file.json").read_text() == "new"
    assert list(new.parent.iterdir()) == [new]


@pytest.mark.skipif(os.name != "posix", reason="Windows has one error for several reasons")
def test_an_error_with_another_reason_than_the_old_folder_leaves_it_alone(old_and_new, monkeypatch):
    old, new = old_and_new
    tried = []

    def fails(source, target):
        tried.append(source)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(OSError, match="Input/output"):
        files.replace_folder(new, old)
    assert tried == [new] and (old / "file.json").read_text() == "old"
