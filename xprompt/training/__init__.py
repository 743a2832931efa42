"""Training: a prompt, C prompts in parallel, or a whole backbone; evaluation, callbacks and checkpoints.

This room never prunes, never chooses between methods, and never changes a backbone it is given.

    tune.py          tune, tune_many, fine_tune: what is trained, and what is returned
    loop.py          the loop: draw batches, forward, backward, step, evaluate, halve
    candidate.py     what belongs to one prompt: optimiser, schedule, early stopping, best checkpoint, history
    optimizer.py     Adafactor as in the paper or as in T5, or AdamW
    evaluation.py    predictions and metrics of one prompt or of C in parallel
    callbacks.py     what happens around a loop: the base classes, the progress bar, the log
    tensorboard.py   a callback that writes event files
    live_curve.py    a callback that draws the selection score in a notebook
    mlflow.py        one that logs to MLflow
    wandb.py         one that logs to Weights & Biases
    checkpoint.py    the state of an unfinished loop on disk, and how it is resumed
    memory.py        how many candidates one pass can hold
"""
