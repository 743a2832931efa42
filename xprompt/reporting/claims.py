"""The paper's claims, one declaration each, and what a report's runs say of them, with a number and its interval.

A claim that compares two methods is judged from the main results, or from what a notebook measured and handed to
`Report.save_claim`, whichever has more seeds; any other from the notebook. A claim that neither has is "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from xprompt.reporting import paper, wording
from xprompt.reporting.rows import whole
from xprompt.reporting.statistics import Interval, differences, interval

Judgement = Literal["holds", "does not hold", "not shown", "not measured"]
INFINITE = math.inf


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, or one that its controls ask for.

    Attributes:
        name: in `Report.save_claim` and in the manifest.
        text: the claim in one short line.
        where: the paper's table or figure.
        pair: (a, b): judged by the paired difference a − b of the main results' average; None: by a notebook alone.
        low, high: the claim holds between these, in `unit`.
        unit: of the number, "points" or "%".
        paper: the paper's own number, where we know one.
        few_shot: whether it speaks of runs on a few examples; those are never mixed with runs on whole training sets.
    """

    name: str
    text: str
    where: str
    pair: tuple[str, str] | None = None
    low: float = 0.0
    high: float = INFINITE
    unit: str = "points"
    paper: str = ""
    few_shot: bool = False


@dataclass(frozen=True)
class Verdict:
    """A claim with what was measured; `measured` is None where nothing was.

    Attributes:
        noted: whether a notebook measured it, and not the main results.
        basis: the tasks and seeds, as far as they are not those of the main results; empty where they are.
    """

    claim: Claim
    measured: Interval | None = None
    noted: bool = False
    basis: str = ""

    @property
    def judgement(self) -> Judgement:
        """Say whether the whole interval lies where the claim holds, or outside of it; one seed shows nothing.

        Nor do scores with the same difference at every seed. A share of parameters is counted and needs no spread.
        """
        of = self.measured
        if of is None:
            return "not measured"
        if of.n < 2 or (self.claim.unit == "points" and of.verdict == "no spread"):
            return "not shown"
        if self.claim.low < of.low and of.high < self.claim.high:
            return "holds"
        if of.high < self.claim.low or of.low > self.claim.high:
            return "does not hold"
        return "not shown"

    @property
    def number(self) -> str:
        """Return the measured number with its unit; empty where there is none."""
        if self.measured is None:
            return ""
        points = self.claim.unit == "points"
        return wording.points(self.measured.mean, signed=points) + " %" * (not points)

    @property
    def span(self) -> str:
        """Return the 95 % interval as text; of one seed, that it is one."""
        of = self.measured
        if of is None:
            return ""
        if of.n < 2:
            return "one seed"
        return wording.span(of.low, of.high, signed=self.claim.unit == "points")


def _from_to(values: Iterable[float], digits: int = 1) -> str:
    """Write the lowest and the highest of the paper's numbers."""
    known = sorted(values)
    return f"{wording.points(known[0], digits=digits)} to {wording.points(known[-1], digits=digits)}"


#: In the order of the front page. The controls that the paper lacks come after its main claim.
CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim("main", "XPrompt is above prompt tuning", "Tab 1", ("xprompt", "prompt_tuning"),
              paper=_from_to(gain for _, gain in paper.gains().values())),
        Claim("matched", "… also with the same budget for both", "ours", ("xprompt", "prompt_tuning_matched")),
        Claim("few-shot", "… also with 32 training examples", "Tab 2", ("xprompt", "prompt_tuning"), few_shot=True),
        Claim("fine-tuning", "XPrompt is above full fine-tuning", "Tab 1", ("xprompt", "fine_tuning"),
              paper=_from_to(paper.over_fine_tuning().values())),
        Claim("p-tuning", "XPrompt is above P-Tuning", "Tab 1", ("xprompt", "p_tuning")),
        Claim("prefix-tuning", "XPrompt is above Prefix-Tuning", "Tab 1", ("xprompt", "prefix_tuning")),
        Claim("scale", "XPrompt gains at every scale", "Fig 1, least",
              paper=_from_to(gain for _, gain in paper.gains().values())),
        Claim("negative", "Masking unimportant tokens helps", "Fig 2"),
        Claim("reversed", "XPrompt is above its reversed mask", "Fig 5", ("xprompt", "xprompt_reversed")),
        Claim("random", "XPrompt is above a random mask", "Fig 5", ("xprompt", "xprompt_random")),
        Claim("length", "XPrompt is above a prompt as short", "Fig 5", ("xprompt", "prompt_tuning_length")),
        Claim("parameters", "It keeps at most 37 % of the prompt", "Tab 3", low=-INFINITE, high=paper.kept()[1],
              unit="%", paper=f"{_from_to(paper.kept(), 0)} %"),
        Claim("token-level", "Both levels are above tokens alone", "Tab 4", ("xprompt", "xprompt_token")),
        Claim("piece-level", "Both levels are above pieces alone", "Tab 4", ("xprompt", "xprompt_piece")),
        Claim("prompt-length", "100 tokens gain < 1 point over 20", "Tab 5", low=-INFINITE, high=1.0),
        Claim("initialisation", "Sampled vocabulary is the best start", "Tab 6"),
        Claim("transfer", "XPrompt transfers better", "Tab 7", ("xprompt_transfer", "task_transfer")),
        Claim("p-tuning-v2", "XPrompt is above P-Tuning v2", "Tab 8", ("xprompt", "p_tuning_v2")),
    )
}  # fmt: skip


def judge(rows: pd.DataFrame, noted: Mapping[str, Mapping[str, Any]], few_shot: bool = False) -> list[Verdict]:
    """Return a verdict for every claim, in the order of `CLAIMS`.

    Args:
        rows: tidy rows of the main results, of one profile and one protocol; it may be empty.
        noted: name → mean, low, high, n of the claims that notebooks measured, as the manifest has them. One of fewer
            seeds than the main results leaves theirs in its place.
        few_shot: whether the rows are of runs on a few examples.
    """
    pairs = list(dict.fromkeys(claim.pair for claim in CLAIMS.values() if claim.pair))
    gaps = {} if rows.empty else averages(differences(rows, pairs), whole(rows))
    measured: dict[str, Interval | None] = {
        name: gaps.get(claim.pair) if claim.pair and claim.few_shot == few_shot else None
        for name, claim in CLAIMS.items()
    }
    if not few_shot:
        measured["parameters"] = _share_of_parameters(rows)
    by_notebook = {
        name: of for name, of in noted.items()
        if name in CLAIMS and ((known := measured[name]) is None or known.n <= of["n"])
    }  # fmt: skip
    for name, of in by_notebook.items():
        low, high = (math.nan if of[side] is None else of[side] for side in ("low", "high"))
        measured[name] = Interval(of["mean"], low, high, of["n"])
    return [Verdict(claim, measured[name], name in by_notebook) for name, claim in CLAIMS.items()]


def averages(gaps: pd.DataFrame, judged: str = "") -> dict[tuple[str, str] | None, Interval]:
    """Return (a, b) → the difference of the average, or of the one task there is.

    Args:
        gaps: as `xprompt.reporting.statistics.differences` returns them.
        judged: the average, or the task, that speaks for all; "": as the differences have it. Where some methods are
            done on fewer tasks than others, the rows say it, and the one task of a pair is not taken for all.
    """
    found: dict[tuple[str, str] | None, Interval] = {}
    for row in gaps[gaps["task"] == (judged or whole(gaps))].to_dict("records"):
        found[row["a"], row["b"]] = Interval(row["mean"], row["low"], row["high"], row["n"])
    return found


def _share_of_parameters(rows: pd.DataFrame) -> Interval | None:
    """XPrompt's tunable parameters in percent of prompt tuning's, each seed's mean over its tasks."""
    if rows.empty:
        return None
    by_run = rows[rows["metric"] == "score"].pivot_table(index=["seed", "task"], columns="method", values="num_params")
    if not {"xprompt", "prompt_tuning"} <= set(by_run):
        return None
    share = (100 * by_run["xprompt"] / by_run["prompt_tuning"]).dropna().groupby("seed").mean()
    return interval(share.to_numpy()).within(0, 100) if len(share) else None
