"""Prompts: the soft prompt as tensors, masks and files.

This room never joins a prompt to an input (`backbones/base.py` does), and never decides what to prune.

    soft_prompt.py   P (P, H), its token mask (P,) and piece mask (P, K), initial values, saving and loading
    card.py          what a saved prompt was tuned for: backbone, task, score; the model card beside it
    stacking.py      C prompts as one padded tensor
    collection.py    several prompts in one checksummed file
    peft.py          prompts to and from PEFT's folder format
"""
