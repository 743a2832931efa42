"""Every malformed input that was thought of is refused by an error of ours; see `malformed`."""

from __future__ import annotations

import pytest

from tests.fuzz import STRESS
from tests.fuzz.malformed import cases, outcome

CASES = list(cases())
SURFACES = sorted({surface for surface, _, _ in CASES})


@pytest.mark.parametrize("surface", SURFACES)
def test_malformed_input_is_refused(surface):
    mine = [case for case in CASES if case[0] == surface]
    wrong = {what: found for _, what, run in mine if (found := outcome((surface, what, run))) != "refused"}
    assert len(mine) > 5 and not wrong


def test_an_input_that_is_right_is_accepted(tmp_path):
    """Else a harness that refuses everything would pass."""
    import xprompt as xp
    from tests.fuzz.malformed import CSV, DECLARED, LINE, command, encode, release, write

    assert len(xp.load_task(write(tmp_path, DECLARED, train_csv=CSV)).train) == 4
    (tmp_path / "train.csv").unlink()
    assert len(xp.load_task(write(tmp_path, DECLARED, train_jsonl=LINE)).train) == 2
    assert len(encode(200)) == 4 and command(["plan", "--help"]) == 0
    example = {"premise": "a", "hypothesis": "b", "label": "entailment", "idx": 0}
    assert len(release(tmp_path, "RTE", example).train) == 1
    assert not STRESS or len(CASES) > 1000
