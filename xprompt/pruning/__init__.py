"""Pruning: which tokens and pieces of a prompt matter, and the masks that follow.

This room never trains, and never chooses ratios: `methods` does.

    importance.py    I(p) and I(q), exactly, from one backward pass over the data
    ratio.py         how many entries a prune ratio removes
    prune.py         scores and ratios to masks, and rewinding
    ablation.py      what a tuned prompt scores with parts of it masked, and what predicts that
"""
