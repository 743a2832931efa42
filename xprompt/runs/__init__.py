"""Runs: one run from its settings to its record, done once and read ever after; grids of them, in parallel.

This room never trains or prunes by itself: `methods` does. Records are JSON and prompts safetensors, so that nothing
that is loaded can run code. store, grid and the executors are read without torch.

    run.py           xp.run and xp.find: the lineage of a run, its lock, its record
    classifier.py    a finished prompt in use: from texts to labels with probabilities
    grid.py          which runs a report is made of, and having them done with a line each
    executors.py     where they are done: the executor by its name
    planned_runs.py  the different runs of a list with their ancestors, and what an executor reports of them
    processes.py     this process, or joblib's
    ray_tasks.py     Ray's, on a cluster
    store.py         records on disk, each whole and unaltered or absent
    archive.py       the records of a published report in one checksummed file
    manifest.py      which runs each table and figure of a report comes from
    publish.py       a finished report in its compact form
    doctor.py        a report's folder verified, and repaired where that loses nothing
    provenance.py    versions, hardware and revision that made a record
"""
