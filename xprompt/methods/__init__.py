"""Methods: the paper's, its controls and the baselines. Start reading here.

Each is declared in `config/methods.py`, and is a function from a `MethodContext` to a `MethodResult`. This room never
stores a run, and a method never starts another run: the one it starts from is done before and handed in.

    xprompt.py           the paper, end to end: score, prune, rewind, retrain, choose
    race.py              which masks are worth retraining: by their loss untrained, on growing parts of the split
    ratio_search.py      how candidates are retrained and the best is chosen: the grid, and successive halving
    masking.py           a tuned prompt with parts masked and nothing retrained: Fig 2, and each part left out alone
    prompt_tuning.py     prompt tuning, with the controls "matched budget" and "surviving length"
    transfer.py          prompt tuning from another task's prompt, whole or pruned
    structured_prompt.py a hypernetwork makes the prompt of a latent: linear, low-rank, layered
    intrinsic_subspace.py a few coordinates in the space of other tasks' prompts
    fine_tuning.py       full fine-tuning, the upper baseline
    peft_baselines.py    LoRA, P-Tuning and prompt tuning by PEFT's own classes
    prefix_tuning.py     Prefix-Tuning and P-Tuning v2, in both halves of an encoder-decoder
    prompt_encoder.py    how a module that makes the prompt is tuned, and how adapters are trained
    reference.py         majority class and zero-shot, which train nothing
    base.py              what a method is given and what it returns
"""
