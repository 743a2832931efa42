"""A packaged checkpoint is used as it was packaged, or not at all."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import xprompt as xp
from xprompt import nano
from xprompt.backbones.pretrained import nano_checkpoint
from xprompt.nano import checksums

FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of the packaged folder, in the package's place."""
    shutil.copytree(nano_checkpoint(), tmp_path / "checkpoint")
    monkeypatch.setattr(nano, "__file__", str(tmp_path / "__init__.py"))
    return tmp_path / "checkpoint"


def test_every_packaged_checkpoint_has_the_checksums_of_its_files():
    folders = sorted(nano_checkpoint().parent.glob("checkpoint*/"))
    assert folders
    for folder in folders:
        lines = (folder / checksums.NAME).read_text().splitlines()
        assert [line.split("  ") for line in lines] == [
            [hashlib.sha256((folder / name).read_bytes()).hexdigest(), name] for name in FILES
        ]


def test_the_whole_copy_loads(copy):
    assert xp.load_backbone("nano", device="cpu").fingerprint


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_flipped_bit_is_an_error_that_names_the_file_and_the_fix(copy, name, place):
    content = bytearray((copy / name).read_bytes())
    content[int(place * len(content)) if place > 0 else place] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(xp.BackboneError, match=rf"{re.escape(name)} is not the file.*Install xprompt again"):
        xp.load_backbone("nano", device="cpu")


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"\xff\xfe"])
def test_without_readable_checksums_nothing_is_loaded(copy, content):
    (copy / checksums.NAME).unlink()
    if content is not None:
        (copy / checksums.NAME).write_bytes(content)
    with pytest.raises(xp.BackboneError, match=checksums.NAME):
        xp.load_backbone("nano", device="cpu")


def test_a_missing_file_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(xp.BackboneError, match=r"tokenizer\.json.*cannot be read"):
        xp.load_backbone("nano", device="cpu")


def test_written_checksums_are_those_of_the_files_now(copy):
    (copy / "config.json").write_text("{}")
    with pytest.raises(xp.BackboneError):
        checksums.verify(copy)
    checksums.write(copy)
    checksums.verify(copy)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", checksums.NAME], cwd=copy, check=True)
