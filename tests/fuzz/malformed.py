"""Several hundred malformed inputs, one a line, over every surface where settings, tasks and data come in.

`cases()` yields (surface, what is wrong, a function that takes a fresh folder). Each has to end in an `XPromptError`.
Run as a program, it prints how each surface fared: `python -m tests.fuzz.malformed`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors

import xprompt as xp
from xprompt.backbones.seq2seq import Seq2SeqBackbone
from xprompt.errors import XPromptError
from xprompt.prompts.card import PromptCard
from xprompt.prompts.collection import load_from_collection, save_collection
from xprompt.pruning.importance import Importance
from xprompt.pruning.prune import keep_mask
from xprompt.runs.executors import get_executor
from xprompt.runs.grid import grid
from xprompt.runs.store import Store

Case = tuple[str, str, Callable[[Path], Any]]
HUGE = 10**5000
INF, NAN = float("inf"), float("nan")
RTE = {"task": "rte", "profile": "tiny"}
DECLARED = {"name": "topics", "template": "{text}", "label": "topic", "verbalizer": {"wear": "clothes", "go": "travel"}}
SHARED: dict[str, Any] = {key: DECLARED[key] for key in ("template", "label")} | {"label_words": DECLARED["verbalizer"]}
CSV = "text,topic\na,go\nb,wear\nc,go\nd,wear\n"
LINE = '{"text": "a", "topic": "go"}\n{"text": "b", "topic": "wear"}\n'
EXAMPLE = {"premise": "a", "hypothesis": "b", "label": "entailment", "idx": 0}


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def describe(value: object) -> str:
    try:
        return repr(value)[:50]
    except Exception:
        return f"unprintable {type(value).__name__}"


def cases() -> Iterator[Case]:
    yield from settings()
    yield from declarations()
    yield from tables()
    yield from frames()
    yield from names_and_sources()
    yield from releases()
    yield from splits()
    yield from masks()
    yield from prompts()
    yield from adapters()
    yield from cards()
    yield from stores()
    yield from grids()
    yield from commands()


def settings() -> Iterator[Case]:
    wrong_counts = [
        0,
        -1,
        2**70,
        HUGE,
        1.5,
        INF,
        NAN,
        True,
        "5",
        "",
        b"5",
        [5],
        {},
        Unprintable(),
        5j,
        np.array([1, 2]),
    ]
    counts = ["length", "pieces", "max_source", "limit_train", "limit_validation", "selection_limit"]
    for name, value in itertools.product(counts, wrong_counts):
        if not isinstance(value, str) or value:  # "" is left out
            yield "settings", f"{name}={describe(value)}", lambda _, n=name, v=value: xp.RunConfig(**{**RTE, n: v})
    for value in [-1, 2**63, HUGE, 0.5, INF, NAN, False, "0", b"0", [], {}, None]:
        yield "settings", f"seed={describe(value)}", lambda _, v=value: xp.RunConfig(**RTE, seed=v)
    for value in [0, 1, -0.1, INF, NAN, HUGE, True, "0.2", [], {}]:
        yield "settings", f"selection={describe(value)}", lambda _, v=value: xp.RunConfig(**RTE, selection=v)
    for name in ["task", "profile", "method", "protocol"]:
        for value in [None, 0, 5, [], {}, ["rte"], b"rte", HUGE, Unprintable(), "a\0", "\ud83d"]:
            yield "settings", f"{name}={describe(value)}", lambda _, n=name, v=value: xp.RunConfig(**{**RTE, n: v})
    for name in ["tune", "fine_tune", "prune", "pattern", "init", "dtype", "learning_rates", "source_tasks"]:
        for value in [0, False, "x", [1], {"bogus": 1}, b"x", 1.5, HUGE]:
            yield "settings", f"{name}={describe(value)}", lambda _, n=name, v=value: xp.RunConfig(**{**RTE, n: v})
    tuning: dict[str, list[object]] = {
        "steps": [-1, 2**70, HUGE, 1.5, INF, NAN, True, "5", None],
        "epochs": [0, -1, INF, NAN, 1e300, HUGE, True, "2"],
        "learning_rate": [0, -1, INF, NAN, 1e308, HUGE, True, "0.1"],
        "weight_decay": [-1e-9, INF, NAN, 1e300, "0"],
        "batch_size": [0, -1, 2**70, 1.5, True, "8"],
        "accumulation": [0, -1, 3, 2**70, True],
        "eval_every": [0, -1, 2**70, True],
        "patience": [0, -1, 2**70, True],
        "max_grad_norm": [0, -1, INF, 1e300],
        "eval_batch_size": [0, -1, 2**70, True],
        "optimizer": ["sgd", 0, None, []],
        "schedule": ["x", 0, None],
        "objective": ["x", 0],
        "dropout": ["x", 5, 0.1, None],
        "gradient_checkpointing": ["x", 5, None],
    }
    for name, values in tuning.items():
        for value in values:
            given = {"steps": 5, name: value} if name != "epochs" else {name: value}
            yield "settings", f"tune.{name}={describe(value)}", lambda _, g=given: xp.TuneSettings(**g)
            yield (
                "replace",
                f"{name}={describe(value)}",
                lambda _, g=given: xp.TuneSettings(steps=5).replace(**{"steps": None, **g}),
            )
    pruning: dict[str, list[object]] = {
        "token_ratios": [
            [],
            [1],
            [-0.1],
            [NAN],
            [INF],
            ["0.1"],
            [True],
            0.1,
            "0.1",
            {0.1},
            [[0.1]],
            [0.1] * 5000,
            None,
        ],
        "level": ["x", 0],
        "mode": ["x", 0],
        "search": ["x", 0],
        "importance_limit": [0, -1, 2**70, True],
        "side_by_side": [0, -1, 2**70, True],
        "retune": [0, {}, [], "x"],
        "rescore_pieces": ["x", 5, None],
    }
    for name, values in pruning.items():
        for value in values:
            yield "settings", f"prune.{name}={describe(value)}", lambda _, n=name, v=value: xp.PruneSettings(**{n: v})
    for few_shot in [0, -1, True, False, 1.5, "32", "Official", "", [], 2**70]:
        if few_shot != "":
            yield "settings", f"few_shot={few_shot!r}", lambda _, v=few_shot: xp.RunConfig(**RTE, few_shot=v)
    for template, words in [
        ("{", ["a"]),
        ("{a.b}", ["a"]),
        ("{0}", ["a"]),
        ("{a", ["a"]),
        ("{a!r}", ["a"]),
        ("{a:{b}}", ["a"]),
        ("{a}", ["a", "a "]),
        ("{a}", [""]),
        ("{a}", "ab"),
        (5, ["a"]),
        ("{a}", [5]),
        ("{}", ["a"]),
    ]:
        yield (
            "templates",
            f"{template!r} {words!r}",
            lambda _, t=template, w=words: xp.Pattern(template=t, label_words=w),
        )


def write(folder: Path, declared: object = DECLARED, **files: str | bytes) -> Path:
    (folder / "task.json").write_text(declared if isinstance(declared, str) else json.dumps(declared), encoding="utf-8")
    for name, content in {"validation_csv": CSV, **files}.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return folder / "task.json"


def declarations() -> Iterator[Case]:
    changes: dict[str, list[object]] = {
        "name": [
            "",
            "a/b",
            "1a",
            "a" * 41,
            5,
            None,
            [],
            "rte",
            "RTE",
            "all",
            "average",
            "a\0",
            "\ud83d",
            "../x",
            "a\nb",
        ],
        "template": [
            "",
            "text",
            "{",
            "}",
            "{}",
            "{0}",
            "{text",
            "{text.x}",
            "{text[0]}",
            "{text!r}",
            "{text:5}",
            "{topic}",
            "{text} {text}",
            "{text} {topic}",
            "{{text}}",
            "{text:{text}}",
            5,
            None,
            ["{text}"],
            "{ }",
            "{text}\0",
        ],
        "label": ["", 5, None, [], "text", "nothere"],
        "verbalizer": [
            {},
            [],
            "x",
            {"go": "a"},
            {"go": "a", "wear": "a"},
            {"go": "a", "wear": " a"},
            {"go": "", "wear": "b"},
            {"go": " ", "wear": "b"},
            {"": "a", "go": "b"},
            {"go": "a", "go ": "b"},
            {"go": 1, "wear": 2},
            {"go": None, "wear": "a"},
            {"go": ["a"], "wear": "b"},
            {"GO": "a", "WEAR": "b"},
            {"go": "a\0", "wear": "b"},
        ],
        "cut": ["nothere", 5, None, [], "topic"],
        "cut_side": ["middle", 0, None, []],
        "metrics": [[], "accuracy", ["f1"], ["accuracy", "accuracy"], ["em"], [5], None, {}],
        "group": ["", "nothere", 5, []],
        "colour": ["red"],
        "self": [1],
        "cls": [1],
        "__init__": [1],
        "OwnTask": [{}],
        "train": [
            "../secret.csv",
            "/etc/passwd",
            "nothere.csv",
            "task.json",
            "train",
            ".",
            "..",
            "/",
            "C:\\x.csv",
            "a\0.csv",
            5,
            None,
            "validation.csv/../../x.csv",
            "~/x.csv",
            "x" * 300 + ".csv",
            "sub",
            "http://x/y.csv",
            " ",
        ],
        "validation": ["../secret.csv", "/etc/passwd", "nothere.csv", "//x/y.csv", "..\\x.csv", 5, None],
        "validation_share": [0.2, 0, 1, -1, 1e300, "0.2", True, [], 2],
        "validation_seed": [-1, 2**63, "0", True, 0.5, None, []],
    }
    for name, values in changes.items():
        for value in values:
            yield (
                "task.json",
                f"{name}={describe(value)}",
                lambda folder, n=name, v=value: xp.load_task(write(folder, {**DECLARED, n: v}, train_csv=CSV)),
            )
    whole = json.dumps(DECLARED)
    texts = [
        "",
        " ",
        "null",
        "[]",
        "5",
        '"x"',
        "{",
        whole[:-1],
        whole + "}",
        whole + whole,
        "NaN",
        '{"name": NaN}',
        "\0",
        '{"name": "a", "name": "b"}',
        "[" * 100_000,
        '{"a":' * 10_000,
        '{"name": ' + "9" * 5000 + "}",
        "{'name': 'a'}",
        '{"name": "\\ud83d"}',
        "// x\n" + whole,
        whole.replace("}", ",}", 1),
        '{"validation_seed": 1e999}',
    ]
    for text in texts:
        yield (
            "task.json",
            f"the text {text[:30]!r}",
            lambda folder, t=text: xp.load_task(write(folder, t, train_csv=CSV)),
        )
    for content in [
        whole.encode("utf-16"),
        whole.encode("utf-32"),
        b"\xff\xfe",
        b"\x80" + whole.encode(),
        bytes(range(256)),
    ]:
        yield (
            "task.json",
            f"the bytes {content[:20]!r}",
            lambda folder, c=content: xp.load_task(write(folder, train_csv=CSV, task_json=c)),
        )
    for name in ("train.csv", "validation.csv", "other.csv"):
        yield "links", f"{name} to a file outside", lambda folder, n=name: link(folder, n, "outside")
        yield "links", f"{name} to itself", lambda folder, n=name: link(folder, n, "itself")
        yield "links", f"{name} to nowhere", lambda folder, n=name: link(folder, n, "nowhere")
        yield "links", f"{name} to a device", lambda folder, n=name: link(folder, n, "device")
        yield "links", f"{name} in a linked folder outside", lambda folder, n=name: link(folder, n, "folder")
        yield "files", f"{name} is a folder", lambda folder, n=name: odd(folder, n, "folder")
        yield "files", f"{name} is a pipe", lambda folder, n=name: odd(folder, n, "pipe")
    yield "files", "task.json is a folder", lambda folder: odd(folder, "task.json", "folder")
    yield "files", "task.json is a pipe", lambda folder: odd(folder, "task.json", "pipe")
    yield "files", "save into a file", lambda folder: xp.CustomTask(**DECLARED).save(write(folder))
    yield "files", "save into /proc", lambda folder: xp.CustomTask(**DECLARED).save("/proc/none")
    yield "files", "save with NUL", lambda folder: xp.CustomTask(**DECLARED).save("a\0")


def declared_as(folder: Path, name: str) -> Path:
    split = "validation" if name.startswith("validation") else "train"
    other = {"train": {"validation_csv": CSV}, "validation": {"train_csv": CSV}}[split]
    (folder / "validation.csv").unlink(missing_ok=True)
    path = write(folder, {**DECLARED, split: name}, **other)
    if split == "validation":
        (folder / "validation.csv").unlink(missing_ok=True)
    return path


def link(folder: Path, name: str, where: str) -> object:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "secret.csv").write_text(CSV)
    (folder / "beside").mkdir()
    (folder / "beside" / "rows.csv").write_text(CSV)
    path = declared_as(inner, name)
    if where == "folder":
        (inner / "sub").symlink_to(folder / "beside")
        split = "validation" if name.startswith("validation") else "train"
        path.write_text(json.dumps({**DECLARED, split: "sub/rows.csv"}))
    else:
        target = {"outside": folder / "secret.csv", "itself": name, "nowhere": "nothere.csv", "device": "/dev/zero"}[
            where
        ]
        (inner / name).symlink_to(target)
    return xp.load_task(path)


def odd(folder: Path, name: str, what: str) -> object:
    path = declared_as(folder, name) if name != "task.json" else write(folder, train_csv=CSV)
    if name == "task.json":
        path.unlink()
    (folder / name).mkdir() if what == "folder" else os.mkfifo(folder / name)
    return xp.load_task(path)


def tables() -> Iterator[Case]:
    csvs: list[str | bytes] = [
        "",
        "\n",
        "text,topic",
        "text,topic\n",
        "text\ntopic\n",
        "text;topic\na;go\n",
        "text\ttopic\na\tgo\n",
        "text|topic\na|go\n",
        "a,go\nb,wear\n",
        "text,topic,text\na,go,b\n",
        "text,topic,topic\na,go,go\n",
        "text, text,topic\na,b,go\n",
        ",\na,go\n",
        "text,topic\na\n",
        "text,topic\na,go,x\n",
        "text,topic\na,b,go\n",
        'text,topic\n"a,go\n',
        'text,topic\n"a"b,go\n',
        "text,topic\n,go\n",
        "text,topic\n ,go\n",
        "text,topic\na,\n",
        "text,topic\na, \n",
        "text,topic\na,fly\n",
        "text,topic\na,GO\n",
        "text,topic\na,0\n",
        "text,topic\n\u00a0,go\n",
        "text,topic\na\0,go\n",
        "TEXT,TOPIC\na,go\n",
        "text,topic\n" + "a" * 200_000 + ",go\n",
        CSV.encode("utf-16"),
        CSV.encode("utf-32"),
        b"text,topic\ncaf\xe9,go\n",
        b"\xff\xfetext,topic\n",
        b"\x1f\x8b\x08\x00",
        b"PK\x03\x04rest",
        b"text,topic\n\xed\xa0\x80,go\n",
        bytes(range(256)),
        b"\0" * 100,
        '"text,topic"\n"a,go"\n',
        'text,topic\n"",go\n',
        "{}\n",
        "text,topic\na,go\n\x0c\n",
        "#comment\ntext,topic\na,go\n",
        "sep=,\ntext,topic\na,go\n",
        "text,topic\na,go\nb\n",
        "text,topic\n" + "a,go\n" * 50 + "b,\n",
        "\ufeff\ufefftext,topic\na,go\n",
    ]
    for content in csvs:
        yield "CSV", describe(content), lambda folder, c=content: xp.load_task(write(folder, train_csv=c))
    tsvs: list[str | bytes] = [
        "",
        "text\ttopic\n",
        CSV,
        "text\ttopic\na\n",
        "text\ttopic\na\tgo\tx\n",
        "text\ttopic\n\tgo\n",
        "text\ttopic\na\t\n",
        "text\ttext\ttopic\na\tb\tgo\n",
        'text\ttopic\n"a\tb"\tgo\n',
        "text\ttopic\na\0\tgo\n",
        "text\ttopic\na\t go x\n",
        '"text"\t"topic"\na\tgo\n',
        "text\ttopic\n \tgo\n",
    ]
    for content in tsvs:
        yield "TSV", describe(content), lambda folder, c=content: xp.load_task(write(folder, train_tsv=c))
    lines: list[str | bytes] = [
        "",
        "\n\n",
        "[]",
        "null",
        "5",
        '"x"',
        "{}",
        "{",
        LINE[:-2],
        LINE + "x",
        "[" + LINE.replace("\n", ",")[:-1] + "]",
        LINE.replace("\n", ""),
        *(
            LINE + '{"text": VALUE, "topic": "go"}\n'.replace("VALUE", v)
            for v in [
                "null",
                "NaN",
                "Infinity",
                "-Infinity",
                "1e999",
                "[]",
                "{}",
                '""',
                '" "',
                "9" * 5000,
                '"\\ud83d"',
                '"\\u0000"',
                "'a'",
                "01",
                "+1",
                ".5",
                "0x1",
                "undefined",
                '"a\nb"',
                '"\\x"',
                "[" * 50_000,
            ]
        ),
        *(
            LINE + '{"text": "a", "topic": VALUE}\n'.replace("VALUE", v)
            for v in ["null", "NaN", "[]", "{}", '""', '" "', "0", "true", '"fly"', '"GO"', "1.0"]
        ),
        LINE + '{"text": "a", "text": "b", "topic": "go"}\n',
        LINE + '{"topic": "go"}\n',
        LINE + '{"text": "a"}\n',
        LINE + '{"Text": "a", "topic": "go"}\n',
        LINE.encode("utf-16"),
        LINE.encode() + b'{"text": "caf\xe9", "topic": "go"}\n',
        LINE.encode() + b'{"text": "\xed\xa0\xbd", "topic": "go"}\n',
        CSV,
        LINE + '{"text": {"a": 1, "a": 2}, "topic": "go"}\n',
        "\r".join(LINE.splitlines()),
    ]
    for content in lines:
        yield "JSONL", describe(content[-60:]), lambda folder, c=content: xp.load_task(write(folder, train_jsonl=c))
    yield "files", "two train files", lambda folder: xp.load_task(write(folder, train_csv=CSV, train_jsonl=LINE))
    yield "files", "no train file", lambda folder: xp.load_task(write(folder))
    grouped = {**DECLARED, "group": "who"}
    for cell in ["", " ", "\u00a0"]:
        table = f"text,topic,who\na,go,x\nb,wear,{cell}\n"
        rows = json.dumps({"text": "a", "topic": "go", "who": cell}) + "\n"
        yield (
            "CSV",
            f"group={cell!r}",
            lambda folder, t=table: xp.load_task(write(folder, grouped, train_csv=t, validation_csv=t)),
        )
        yield "JSONL", f"group={cell!r}", lambda folder, t=rows: xp.load_task(write(folder, grouped, train_jsonl=t))
    for value in ("null", "[]", "NaN"):
        rows = LINE.replace("}", f', "who": {value}}}')
        yield "JSONL", f"group={value}", lambda folder, t=rows: xp.load_task(write(folder, grouped, train_jsonl=t))
    shared = {**DECLARED, "validation_share": 0.5}
    for table in ("text,topic\na,go\n", "text,topic\n" + "a,go\n" * 9):

        def share(folder: Path, t: str = table) -> object:
            path = write(folder, shared, train_csv=t)
            (folder / "validation.csv").unlink()
            return xp.load_task(path)

        yield "CSV", f"a share of {table[11:30]!r}", share


def frames() -> Iterator[Case]:
    import pandas as pd

    cells = [None, NAN, "", " ", pd.NA, pd.NaT, np.nan, [], {}, object(), b"a", Unprintable(), "a\0", "\ud83d", INF]
    good = [{"text": "a", "topic": "go"}, {"text": "b", "topic": "wear"}]
    grouped = {**SHARED, "group": "who"}
    for column, cell in itertools.product(("text", "topic", "who"), cells):
        rows = [*({**row, "who": "x"} for row in good), {"text": "c", "topic": "go", "who": "y", column: cell}]
        what = f"{column}={describe(cell)}"
        yield (
            "DataFrame",
            what,
            lambda _, r=rows: xp.task_from(pd.DataFrame(r, dtype=object), validation=pd.DataFrame(good), **grouped),
        )
        yield "rows", what, lambda _, r=rows: xp.task_from(r, validation=r, **grouped)
    forms = [None, 5, [], {}, [5], [None], [[]], [{}], ["a"], {"text": ["a"]}, {"test": good}, {"train": 5}, b"x", HUGE,
             pd.DataFrame(), pd.DataFrame({"text": ["a"]}), pd.DataFrame([["a", "b"]], columns=["text", "text"]),
             pd.Series(["a"]), np.array([1]), object, Unprintable()]  # fmt: skip
    for form in forms:
        yield "DataFrame", f"data {describe(form)}", lambda _, f=form: xp.task_from(f, **SHARED)
        yield (
            "DataFrame",
            "one row" if form is None else f"validation {describe(form)}",
            lambda _, f=form: xp.task_from(good[:1] if f is None else good, validation=f, **SHARED),
        )
    wrong: list[dict[str, Any]] = [
        {"label_words": "ab"}, {"label_words": {}}, {"label_words": {"go": "x"}}, {"label_words": {HUGE: "x"}},
        {"template": 5}, {"template": "{"}, {"label": 5}, {"name": {}}, {"cut": "x"}, {"validation_share": "0.2"},
        {"validation_share": 2}, {"validation_share": True}, {"validation_seed": "x"}, {"bogus": 1}, {"group": "x"},
    ]  # fmt: skip
    for more in wrong:
        yield "DataFrame", describe(more), lambda _, m=more: xp.task_from(good * 5, **{**SHARED, **m})


def names_and_sources() -> Iterator[Case]:
    for name in [
        5,
        None,
        {},
        [],
        b"rte",
        Unprintable(),
        HUGE,
        "",
        " ",
        "RTE",
        "rte ",
        "nothere",
        "a\0",
        "\ud83d",
        "x" * 100_000,
        "/",
        ".",
        "~nobody/x.json",
        "x.json",
        "/no/such/task.json",
        "a\0.json",
        "x" * 5000 + ".json",
        "\ud83d.json",
        "/dev/null/x.json",
    ]:
        yield "task names", describe(name), lambda _, n=name: xp.load_task(n)
        if isinstance(name, str):
            yield "task names", f"path {describe(name)}", lambda _, n=name: xp.load_task(Path(n) / "no" / "task.json")
    for source in [
        5,
        None,
        {},
        [],
        b"nano",
        Unprintable(),
        "",
        "nothere",
        "a\0",
        "\ud83d",
        "x" * 100_000,
        "~nobody",
        "/dev/null",
        "/etc/passwd",
        "/",
    ]:
        yield "sources", describe(source), lambda _, s=source: xp.load_task("rte", s)
        yield "sources", f"official {describe(source)}", lambda _, s=source: xp.load_task("rte", s, few_shot="official")
    for tasks in [
        ",",
        "rte,rte",
        "rte;cb",
        "rte cb",
        ["rte", "rte"],
        [5],
        [None],
        [{}],
        "a,b/task.json",
        "," * 1000,
        "\0",
        [""],
    ]:
        yield "task names", f"tasks {describe(tasks)}", lambda _, t=tasks: choose_tasks(t)


def choose_tasks(tasks: Any) -> object:
    from xprompt.runs.grid import choose_tasks as choose

    return choose(tasks, "tiny")


def releases() -> Iterator[Case]:
    values: dict[str, list[object]] = {
        "premise": [None, 5, [], {}, NAN, "a\0", True],
        "hypothesis": [None, 5, [], "\0"],
        "label": [None, 5, True, "", "Entailment", [], {}, "entailment ", 0],
        "idx": [],
    }
    for name, given in values.items():
        for value in given:
            yield (
                "release",
                f"{name}={describe(value)}",
                lambda folder, n=name, v=value: release(folder, "RTE", {**EXAMPLE, n: v}),
            )
        if name != "idx":
            yield (
                "release",
                f"no {name}",
                lambda folder, n=name: release(folder, "RTE", {k: v for k, v in EXAMPLE.items() if k != n}),
            )
    yield "release", "an idx twice", lambda folder: release(folder, "RTE", EXAMPLE, EXAMPLE)
    for target in [
        None,
        5,
        [],
        "x",
        {},
        {"span1_text": 5},
        {"span1_text": "a"},
        {"span1_text": "a", "span2_text": None},
    ]:
        yield (
            "release",
            f"wsc target={target!r}",
            lambda folder, t=target: release(folder, "WSC", {"idx": 0, "label": True, "text": "a", "target": t}),
        )
    answers = [
        None,
        5,
        [5],
        [None],
        [{}],
        [{"text": 5, "label": 1}],
        [{"text": "a", "label": 2}],
        [{"text": "a", "label": True}],
        [[]],
    ]
    for answer in answers:
        passage = {"text": "a", "questions": [{"question": "q", "answers": answer}]}
        yield (
            "release",
            f"multirc answers={answer!r}",
            lambda folder, p=passage: release(folder, "MultiRC", {"idx": 0, "passage": p}),
        )
    for passage in [
        None,
        5,
        [],
        {},
        {"text": "a"},
        {"text": "a", "questions": 5},
        {"text": "a", "questions": [5]},
        {"questions": []},
        {"text": "a", "questions": []},
        {"text": "a", "questions": [{}]},
        {"text": None, "questions": [{"question": "q", "answers": [{"text": "a", "label": 1}]}]},
    ]:
        yield (
            "release",
            f"multirc passage={passage!r}"[:60],
            lambda folder, p=passage: release(folder, "MultiRC", {"idx": 0, "passage": p}),
        )
    for content in [b"", b"PAR1", b"PAR1PAR1", bytes(range(256)), b"PAR1" + b"\0" * 100 + b"PAR1"]:
        yield "release", f"parquet {content[:8]!r}", lambda folder, c=content: parquet(folder, c)
    for columns in [
        {},
        {"premise": ["a"]},
        {"premise": ["a"], "hypothesis": ["b"], "label": ["entailment"], "idx": [0]},
        {"premise": [None], "hypothesis": ["b"], "label": [0], "idx": [0]},
        {"premise": ["a"], "hypothesis": ["b"], "label": [-1], "idx": [0]},
        {"premise": ["a"], "hypothesis": ["b"], "label": [2], "idx": [0]},
        {"premise": [b"a"], "hypothesis": ["b"], "label": [0], "idx": [0]},
        {"premise": [1.5], "hypothesis": ["b"], "label": [0], "idx": [0]},
        {"premise": ["a"], "hypothesis": ["b"], "label": [0.0], "idx": [0]},
    ]:
        yield "release", f"parquet of {columns}"[:60], lambda folder, c=columns: parquet(folder, c)


def release(folder: Path, name: str, *examples: object) -> object:
    (folder / name).mkdir()
    for split in ("train", "val"):
        (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    return xp.load_task(name.lower(), folder)


def parquet(folder: Path, content: Any) -> object:
    import pyarrow
    import pyarrow.parquet

    (folder / "rte").mkdir()
    for split in ("train", "validation"):
        path = folder / "rte" / f"{split}-0.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pyarrow.parquet.write_table(pyarrow.table(content), path)
    return xp.load_task("rte", folder)


def splits() -> Iterator[Case]:
    for name in ("few_shot", "limit_train", "limit_validation", "seed"):
        for value in [0, -1, True, "5", 2.0, NAN, [], {}, b"5", Unprintable()]:
            if (name, value) != ("seed", 0) or isinstance(value, bool):
                yield "splits", f"{name}={describe(value)}", lambda _, n=name, v=value: xp.load_task("cb", **{n: v})
    for name, values in {
        "fraction": [0, 1, -1, NAN, INF, "0.2", None, [], HUGE],
        "at_most": [0, -1, "5", 2.5, [], NAN],
        "seed": [-1, "0", None, 1.5, []],
    }.items():
        for value in values:
            yield (
                "splits",
                f"hold_out {name}={describe(value)}",
                lambda _, n=name, v=value: xp.load_task("cb").hold_out(**{n: v}),
            )
    yield "splits", "held out twice", lambda _: xp.load_task("cb").hold_out().hold_out()
    yield "splits", "more shots than examples", lambda _: xp.load_task("cb", few_shot=10**9)
    yield "splits", "more shots than fit a number", lambda _: xp.load_task("cb", few_shot=HUGE)
    for most in [0, -1, True, 1.5, "5", None, [], 2]:
        yield "tokens", f"max_source={most!r}", lambda _, m=most: encode(m)
    for predictions in [[], [0], [0, 5], [0, -2], [0, 0.5], [0, NAN], ["0", "1"], [0, None], [[0], [1]], [True, False]]:
        yield "metrics", f"predictions={predictions!r}", lambda _, p=predictions: compute(p)


def encode(most: Any) -> object:
    from tests.conftest import tiny_tokenizer
    from xprompt.data.tokenization import encode as run

    return run(xp.load_task("cb", few_shot=4).train, tiny_tokenizer(True), most)


def compute(predictions: Any) -> object:
    from xprompt.tasks.metrics import compute as run

    return run(xp.get_task("rte"), predictions, [0, 1], ["0", "1"])


def commands() -> Iterator[Case]:
    run = ["run", "--task", "rte", "--profile", "tiny"]
    settings = [
        "length",
        "=5",
        "=",
        "",
        "length=0",
        "length=-1",
        "length=x",
        "length=1e400",
        "length=NaN",
        "length=Infinity",
        "length=true",
        'length="20"',
        "length=" + "9" * 5000,
        "length=[",
        "length={}",
        "length=1e9",
        "bogus=1",
        "tune.bogus=1",
        "tune=5",
        "tune.steps.x=1",
        "tune.steps=-1",
        "a.b.c=1",
        "tune.steps=1e20",
        "tune.learning_rate=1e400",
        "tune.learning_rate=1e308",
        "tune={}",
        "prune.token_ratios=0.1",
        "prune.token_ratios=[1]",
        ".=1",
        "tune.=1",
        ".tune=1",
        "seed=-1",
        "task={}",
        "profile=[]",
        "method=x",
        "pattern=0",
        "few_shot=0",
        "few_shot=true",
        "x=" + "[" * 100_000,
        "limit_train=0",
        'tune={"steps": 1, "steps": 2}',
        "self=1",
        "dtype=int8",
        "selection=0",
        "selection=1",
        "\0=1",
        "length=\0",
        "pattern={}",
        'learning_rates={"lora": 0}',
    ]
    for pair in settings:
        yield (
            "commands",
            f"run --set {pair[:40]!r}",
            lambda folder, p=pair: command([*run, "--output", str(folder), "--set", p]),
        )
    for words in [
        [],
        ["x"],
        ["run"],
        ["run", "--task"],
        ["run", "--task", ""],
        ["run", "--task", "x"],
        ["run", "--task", "\0"],
        [*run, "--seed", "-1"],
        [*run, "--seed", "x"],
        [*run, "--seed", "9" * 5000],
        [*run, "--seed", "1.5"],
        [*run, "--method", "x"],
        [*run, "--protocol", "x"],
        [*run, "--profile", "x"],
        [*run, "--save-every", "x"],
        ["plan", "--profile", "x"],
        ["plan", "--tasks", "x"],
        ["plan", "--tasks", "rte,rte"],
        ["plan", "--methods", "x"],
        ["plan", "--seeds", "0"],
        ["plan", "--seeds", "-1"],
        ["plan", "--data-dir", "/no/such"],
        ["reproduce", "--profile", "x"],
        ["reproduce", "--only", "x"],
        ["reproduce", "--tasks", "x"],
        ["reproduce", "--seeds", "0"],
        ["reproduce", "--set", "x"],
        ["reproduce", "--set", "bogus=1"],
        ["reproduce", "--timeout", "0"],
        ["reproduce", "--timeout", "nan"],
        ["reproduce", "--timeout", "inf"],
        ["reproduce", "--executor", "x"],
        ["reproduce", "--workers", "0"],
        ["reproduce", "--notebooks", "/no/such"],
        ["bench", "--only", "x"],
        ["bench", "--backbones", "x"],
        ["-x"],
        ["--profile"],
        ["reproduce", "x"],
        ["plan", "--seeds", "9" * 5000],
        ["run", "--task", "rte", "--data-dir", "/no/such", "--profile", "tiny"],
        *([*words, "\0"] for words in (["doctor"], ["book"], ["predict", "--text", "a"], ["reproduce", "--output"])),
        [*run, "--save-every", "nan"],
        [*run, "--save-every", "-1"],
        ["predict", "/no/such", "--text", "a"],
        ["predict", "/tmp", "--text", "a", "--field", "b=c"],
        ["predict", "/tmp", "--field", "=c"],
        ["predict", "/tmp", "--field", "a=b", "--field", "a=c"],
        ["predict", "/tmp", "--file", "/no/such.csv"],
        ["check", "x"],
        ["check", "rte", "--data-dir", "/no/such"],
        ["ls", "x"],
        ["ls", "runs", "--reports", "/no/such"],
        ["doctor", "/no/such"],
        ["book", "/no/such"],
    ]:
        yield (
            "commands",
            " ".join(words)[:60],
            lambda folder, w=words: command([*w, "--output", str(folder)] if w[:1] == ["reproduce"] else w),
        )


SCORES = Importance(torch.ones(3), torch.ones(3, 4), 1)


def prompt() -> xp.SoftPrompt:
    return xp.SoftPrompt(torch.arange(48.0).view(3, 16), pieces=4)


def masks() -> Iterator[Case]:
    for ratio in (-0.1, 1.0, 1.5, NAN, INF, "0.1", None, True, [0.1], {}, 10**400, HUGE):
        what = describe(ratio)
        yield "masks", f"token_ratio={what}", lambda folder, r=ratio: xp.prune(prompt(), SCORES, r, 0.0)
        yield "masks", f"piece_ratio={what}", lambda folder, r=ratio: xp.prune(prompt(), SCORES, 0.0, r)
        yield "masks", f"ratio={what}", lambda folder, r=ratio: keep_mask(torch.ones(3), r)
    for name in ("x", 0, [], "Zero", True):
        yield "masks", f"mode={name!r}", lambda folder, m=name: xp.prune(prompt(), SCORES, 0.1, 0.1, m)
        yield "masks", f"order={name!r}", lambda folder, o=name: xp.prune(prompt(), SCORES, 0.1, 0.1, order=o)
    for token, piece in ((4, (4, 4)), (3, (3, 2)), (4, (3, 4)), (1, (3, 4))):
        other = Importance(torch.ones(token), torch.ones(piece), 1)
        yield "masks", f"scores ({token},) {piece}", lambda folder, s=other: xp.prune(prompt(), s, 0.5, 0.5)
    for value in (NAN, INF):
        token = Importance(torch.tensor([value, 1, 1]), torch.ones(3, 4), 1)
        piece = Importance(torch.ones(3), torch.full((3, 4), value), 1)
        yield "masks", f"token score {value}", lambda folder, s=token: xp.prune(prompt(), s, 0.5, 0.5)
        yield "masks", f"piece score {value}", lambda folder, s=piece: xp.prune(prompt(), s, 0.5, 0.5)
    for mask in (torch.ones(4, dtype=torch.bool), torch.ones(3), torch.ones(1, 3, dtype=torch.bool)):
        what = f"prunable {tuple(mask.shape)} {mask.dtype}"
        yield "masks", what, lambda folder, m=mask: keep_mask(torch.ones(3), 0.5, prunable=m)


def prompts() -> Iterator[Case]:
    values = (torch.ones(3), torch.ones(0, 4), torch.ones(3, 0), torch.ones(2, 2, 2), torch.ones(3, 4).long())
    for embeddings in values:
        what = f"{tuple(embeddings.shape)} {embeddings.dtype}"
        yield "prompts", what, lambda folder, e=embeddings: xp.SoftPrompt(e, pieces=1)
    for value in (NAN, INF):
        what = f"saved {value}"
        yield "prompts", what, lambda folder, v=value: xp.SoftPrompt(torch.full((3, 4), v), pieces=1).save(folder)
    for pieces in (0, -1, 3, True, "4", 2.0, None, 10**9):
        yield "prompts", f"pieces={pieces!r}", lambda folder, k=pieces: xp.SoftPrompt(torch.ones(3, 4), pieces=k)
    harms: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda whole: b"",
        "null": lambda whole: b"null",
        "a list": lambda whole: b"[]",
        "no text": lambda whole: b"\xff" * 50,
        "half": lambda whole: whole[: len(whole) // 2],
        "NUL before": lambda whole: b"\0" + whole,
        "a header of 2^63 bytes": lambda whole: (2**63).to_bytes(8, "little"),
        "one bit": lambda whole: whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        "the last bit": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    }
    for what, harm in harms.items():
        yield "prompts", f"prompt.safetensors: {what}", lambda folder, h=harm: damaged_prompt(folder, h)
        yield "prompts", f"a collection: {what}", lambda folder, h=harm: damaged_collection(folder, h)
    for path in ("/no/such", "a\0b", "x" * 5000, "", "/dev/null", "~no-one/x"):
        yield "prompts", f"load {path[:20]!r}", lambda folder, p=path: xp.SoftPrompt.load(p)
    for name in ("b", "", "a\0"):
        yield "prompts", f"of a collection: {name!r}", lambda folder, n=name: damaged_collection(folder, bytes, n)


def damaged_prompt(folder: Path, harm: Callable[[bytes], bytes]) -> object:
    prompt().save(folder)
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(harm(path.read_bytes()))
    return xp.SoftPrompt.load(folder)


def damaged_collection(folder: Path, harm: Callable[[bytes], bytes], name: str = "a") -> object:
    path = folder / "prompts.safetensors"
    save_collection(path, {"a": prompt()})
    path.write_bytes(harm(path.read_bytes()))
    return load_from_collection(path, name)


def adapters() -> Iterator[Case]:
    for count in (-1, 0, 4, 10**9, True, "3", 3.0, 2.5, None, [], {}, INF, NAN):
        yield "PEFT", f"num_virtual_tokens={count}", lambda folder, n=count: adapter(folder, num_virtual_tokens=n)
    for kind in ("LORA", "PREFIX_TUNING", "prompt_tuning", 0, None, [], {}):
        yield "PEFT", f"peft_type={kind!r}", lambda folder, k=kind: adapter(folder, peft_type=k)
    for name, content in itertools.product(
        ("adapter_config.json", "adapter_model.safetensors"), (b"", b"null", b"[]", b"\xff\xfe", b"{", b"5")
    ):
        yield "PEFT", f"{name}: {content!r}", lambda folder, n=name, c=content: adapter(folder, {n: c})
    good = torch.ones(3, 16)
    for tensors in (
        {"prompt_embeddings": torch.ones(3)}, {"prompt_embeddings": good.long()}, {"prompt_embeddings": good.bool()},
        {"prompt_embeddings": good * NAN}, {"prompt_embeddings": good[:2]}, {"prompt_embeddings": good[:, :8]},
        {"prompt_embeddings": good[:, None]}, {"more": good},
    ):  # fmt: skip
        what = ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in tensors.items())
        content = {
            "adapter_model.safetensors": save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})
        }
        yield "PEFT", what, lambda folder, c=content: adapter(folder, c)


class SmallBackbone(Seq2SeqBackbone):
    """What `from_peft` reads of a backbone, without a model."""

    name, hidden_size, device = "small", 16, torch.device("cpu")  # type: ignore[assignment]

    def __init__(self) -> None:
        pass


def adapter(folder: Path, files: dict[str, bytes] | None = None, **changes: object) -> object:
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "token_dim": 16} | changes
    whole = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save_tensors({"prompt_embeddings": torch.ones(3, 16)}),
    }
    for name, content in (whole | (files or {})).items():
        (folder / name).write_bytes(content)
    return xp.from_peft(folder, SmallBackbone(), pieces=4)


CARD = {"backbone": "nano", "kind": "seq2seq", "dtype": "float32", "fingerprint": "0", "max_source": 64}
TASK = {
    "name": "topics", "title": "topics", "template": "{text} {more}", "label_values": ["a", "b"],
    "label_words": ["x", "y"], "metrics": ["accuracy"], "cut_field": "text",
}  # fmt: skip


def cards() -> Iterator[Case]:
    for change in (
        {"format": 2}, {"format": "1"}, {"max_source": 0}, {"max_source": True}, {"max_source": "5"}, {"task": 5},
        {"task": None}, {"backbone": 5}, {"metrics": {"accuracy": NAN}}, {"metrics": []}, {"seed": "0"}, {"bogus": 1},
    ):  # fmt: skip
        yield "cards", str(change), lambda folder, c=change: card(folder, json.dumps({**CARD, "task": TASK, **c}))
    for change in (
        {"template": "{x.y}"}, {"template": "{"}, {"template": "none"}, {"template": "{text} {text}"}, {"name": ""},
        {"template": 5}, {"cut_field": "nothere"}, {"label_words": ["a"]}, {"label_words": ["a", "a "]},
        {"label_words": ["a", "b", "c"]}, {"label_words": ["", "b"]}, {"label_values": []}, {"label_values": [1, 1]},
        {"label_values": [1.5, 2]}, {"metrics": []}, {"metrics": ["x"]}, {"cut_side": "x"}, {"bogus": 1},
    ):  # fmt: skip
        text = json.dumps({**CARD, "task": {**TASK, **change}})
        yield "cards", f"task: {change}", lambda folder, t=text: card(folder, t)
    for text in ("", "null", "[]", "5", "{", '{"format": 1, "format": 1}', "[" * 99_999, "\ufeff", "{}"):
        yield "cards", f"{text[:20]!r}", lambda folder, t=text: card(folder, t)


def card(folder: Path, text: str) -> object:
    (folder / "xprompt.json").write_text(text)
    return PromptCard.read(folder)


def stores() -> Iterator[Case]:
    run = "0123456789abcdef"
    for name in ("x", "", "../../../etc", "A" * 16, "0" * 17, "a\0", "0" * 15 + "\n"):
        yield "stores", f"get {name!r}", lambda folder, n=name: Store(folder).get(n)
        yield "stores", f"put {name!r}", lambda folder, n=name: Store(folder).put({"run": n})
    cycle: list[object] = []
    cycle.append(cycle)
    for value in (object(), {1}, b"a", "\ud83d", cycle, torch.ones(2), np.float32(1), HUGE):
        what = f"put {type(value).__name__}"
        yield "stores", what, lambda folder, v=value: Store(folder).put({"run": run, "x": v})
    for name in ("a.txt", "record.json", "a.safetensors.exe"):
        what = f"put a file {name}"
        yield "stores", what, lambda folder, n=name: Store(folder).put({"run": run}, lambda f: (f / n).write_text(""))


def grids() -> Iterator[Case]:
    for change in (
        {"seeds": 0}, {"seeds": [0, 0]}, {"seeds": "x"}, {"seeds": 10**9}, {"seeds": True}, {"seeds": [1.5]},
        {"methods": ["x"]}, {"methods": 5}, {"methods": [{}]}, {"methods": "xprompt"},
        {"methods": ["xprompt", "xprompt"]}, {"protocols": ["x"]}, {"protocols": 5}, {"protocols": [{}]},
        {"protocols": []}, {"protocols": ["paper", "paper"]}, {"tasks": ["x"]}, {"tasks": 5}, {"tasks": [{}]},
        {"tasks": [None]}, {"tasks": ["rte", "rte"]}, {"profile": "x"}, {"data_dir": "/no/such"}, {"length": 0},
        {"length": "3"}, {"length": True}, {"bogus": 1}, {"tune": 5}, {"length": NAN}, {"limit_train": 0},
    ):  # fmt: skip
        options: dict[str, Any] = {"profile": "tiny", "tasks": "rte", **change}
        yield "grids", str(change), lambda folder, o=options: grid(**o)
    for name, given in (
        ("x", {}), (None, {}), ("local", {"workers": 0}), ("local", {"workers": "2"}), ("local", {"workers": True}),
        ("local", {"workers": 10**9}), ("local", {"workers": 1.5}), ("local", {"bogus": 1}), ("ray", {"workers": 0}),
        ("ray", {"cpus_per_run": INF}), ("ray", {"gpus_per_run": -1}), ("ray", {"bogus": 1}),
    ):  # fmt: skip
        yield "grids", f"executor {name} {given}", lambda folder, n=name, g=given: get_executor(n, folder, **g)
    for seconds in (NAN, INF, -1, "30", None, True):
        what = f"save_every={seconds!r}"
        yield "grids", what, lambda folder, s=seconds: xp.run(xp.RunConfig(**RTE), folder, save_every=s)


def command(words: list[str]) -> object:
    """Run a command line; one that ends with code 2 and a sentence counts as an error of ours."""
    from xprompt.__main__ import main

    out, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(words)
    except SystemExit as stop:
        code = stop.code
    if code == 2 and "Traceback" not in errors.getvalue() and len(errors.getvalue().strip()) > 20:
        raise XPromptError(errors.getvalue())
    return code


def outcome(case: Case, seconds: int = 30) -> str:
    """Return "refused", "accepted", "hangs", or the name of an exception that is not ours."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case[2](Path(folder))
        return "accepted"
    except XPromptError:
        return "refused"
    except TimeoutError:
        return "hangs"
    except Exception as error:
        return type(error).__name__
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    """Print, surface by surface, how many cases there are and what became of them; then each that was not refused."""
    counts: dict[str, Counter[str]] = {}
    others = []
    for case in cases():
        result = outcome(case)
        counts.setdefault(case[0], Counter())[result] += 1
        if result != "refused":
            others.append(f"{case[0]}: {case[1]}: {result}")
    for surface, results in counts.items():
        print(f"{surface:12} {results.total():4}  " + ", ".join(f"{n} {name}" for name, n in results.most_common()))
    total = sum((each for each in counts.values()), Counter())
    print(f"{'all':12} {total.total():4}  " + ", ".join(f"{n} {name}" for name, n in total.most_common()))
    print(*(re.sub(r"[^ -~]", "?", line) for line in others), sep="\n")


if __name__ == "__main__":
    main()
