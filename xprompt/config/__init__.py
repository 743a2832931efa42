"""Every setting, validated: methods, tuning, pruning, profiles, and the settings that name one run.

This room never loads data or models, and never imports torch.

In reading order:

- `methods`: the methods, one declaration each.
- `settings`: `TuneSettings`, `PruneSettings`.
- `pattern`: `Pattern`, a template with its label words.
- `profile`: `Profile`, a backbone with the settings that suit it.
- `profiles`: the named profiles and their numbers.
- `run_config`: `RunConfig`, which names one run.
- `overrides`: single settings of a run by their dotted names, as `--set` gives them.
"""
