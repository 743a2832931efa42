"""The methods, one declaration each: name, title, parent, function, and the settings that its result depends on.

Everything else follows from here: the names that settings accept, the run that is done first, a run's identity, plans,
schedules, display names, colours. The functions lie in `xprompt.methods`, named and not imported, so that settings and
reports are read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xprompt.errors import ConfigError, did_you_mean

Work = Literal["none", "evaluation", "masks", "prompt_tuning", "adapter", "fine_tuning", "search", "retraining"]


@dataclass(frozen=True)
class Method:
    """One method of the paper, a control, or a baseline.

    Attributes:
        name: in settings, records and tables.
        title: as people read it.
        function: "module:function" in `xprompt.methods`; it takes a `MethodContext` and returns a `MethodResult`.
        work: what it spends its time on, for plans: no training at all, one evaluation, importance with evaluating
            many masks, training one prompt, training small weights inside a copy of the frozen backbone, training the
            backbone, importance with retraining of every candidate, or retraining of as many candidates.
        settings: the groups of `RunConfig` that its result depends on, of "tune", "fine_tune" and "prune".
        parent: the method whose run of the same settings is done first and handed in.
        num_sources: fewest and most source tasks, where it starts from the parent's runs of those, one each, and not
            from the one of the task itself.
        level: the level that it prunes, in place of the settings' `prune.level`.
    """

    name: str
    title: str
    function: str
    work: Work
    settings: frozenset[str] = frozenset()
    parent: str | None = None
    num_sources: tuple[int, int] | None = None
    level: Literal["token", "piece"] | None = None

    @property
    def takes_learning_rate(self) -> bool:
        """Whether `RunConfig.learning_rates` may name it: it trains once, and is not what `tune` or `fine_tune` is for.

        Prompt tuning from whatever start, full fine-tuning and retraining have the rates of their settings.
        """
        by_settings = ("prompt_tuning", "fine_tuning", "transfer")  # where their functions are
        return self.work in ("prompt_tuning", "adapter") and self.function.partition(":")[0] not in by_settings


_TUNE, _FINE_TUNE = frozenset({"tune"}), frozenset({"fine_tune"})
_SEARCH = frozenset({"tune", "prune"})

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("majority", "majority class", "reference:majority", "none"),
        Method("zero_shot", "zero-shot", "reference:zero_shot", "evaluation"),
        Method("fine_tuning", "full fine-tuning", "fine_tuning:fine_tuning", "fine_tuning", _FINE_TUNE),
        Method("prompt_tuning", "prompt tuning", "prompt_tuning:prompt_tuning", "prompt_tuning", _TUNE),
        Method(
            "prompt_tuning_matched", "prompt tuning (matched budget)", "prompt_tuning:matched_budget", "retraining",
            _SEARCH, "prompt_tuning",
        ),
        Method(
            "prompt_tuning_length", "prompt tuning (surviving length)", "prompt_tuning:surviving_length",
            "prompt_tuning", _SEARCH, "xprompt",
        ),
        Method("xprompt", "XPrompt", "xprompt:run_xprompt", "search", _SEARCH, "prompt_tuning"),
        Method("xprompt_reversed", "XPrompt (reversed)", "xprompt:run_reversed", "search", _SEARCH, "prompt_tuning"),
        Method("xprompt_random", "XPrompt (random mask)", "xprompt:run_random", "search", _SEARCH, "prompt_tuning"),
        Method("lora", "LoRA", "peft_baselines:lora", "adapter", _TUNE),
        Method(
            "prompt_tuning_peft", "prompt tuning (PEFT)", "peft_baselines:prompt_tuning_peft", "prompt_tuning", _TUNE
        ),
        Method("p_tuning", "P-Tuning", "peft_baselines:p_tuning", "prompt_tuning", _TUNE),
        Method("p_tuning_mlp", "P-Tuning (MLP)", "peft_baselines:p_tuning_mlp", "prompt_tuning", _TUNE),
        Method("prefix_tuning", "Prefix-Tuning", "prefix_tuning:prefix_tuning", "prompt_tuning", _TUNE),
        Method("p_tuning_v2", "P-Tuning v2", "prefix_tuning:p_tuning_v2", "prompt_tuning", _TUNE),
        Method(
            "xprompt_token", "XPrompt (tokens only)", "xprompt:run_xprompt", "search", _SEARCH, "prompt_tuning",
            level="token",
        ),
        Method(
            "xprompt_piece", "XPrompt (pieces only)", "xprompt:run_xprompt", "search", _SEARCH, "prompt_tuning",
            level="piece",
        ),
        Method(
            "task_transfer", "task transfer", "transfer:task_transfer", "prompt_tuning", _TUNE, "prompt_tuning",
            num_sources=(1, 1),
        ),
        Method(
            "task_transfer_pruned", "task transfer of a pruned prompt", "transfer:task_transfer_pruned",
            "prompt_tuning", _SEARCH, "xprompt", num_sources=(1, 1),
        ),
        Method(
            "xprompt_transfer", "XPrompt transfer", "xprompt:run_xprompt", "search", _SEARCH, "task_transfer_pruned"
        ),
        Method(
            "structured_linear", "structured prompt (linear)", "structured_prompt:structured_linear", "prompt_tuning",
            _TUNE,
        ),
        Method(
            "structured_low_rank", "structured prompt (low rank)", "structured_prompt:structured_low_rank",
            "prompt_tuning", _TUNE,
        ),
        Method(
            "structured_layered", "structured prompt (layered)", "structured_prompt:structured_layered",
            "prompt_tuning", _TUNE,
        ),
        Method(
            "xprompt_structured", "XPrompt of a structured prompt", "xprompt:run_xprompt", "search", _SEARCH,
            "structured_linear",
        ),
        Method(
            "intrinsic_subspace", "intrinsic task subspace", "intrinsic_subspace:intrinsic_subspace", "prompt_tuning",
            _TUNE, "prompt_tuning", num_sources=(2, 99),
        ),
        Method(
            "xprompt_subspace", "XPrompt of a subspace prompt", "xprompt:run_xprompt", "search", _SEARCH,
            "intrinsic_subspace",
        ),
        Method("masking", "masking, not retrained", "masking:masking", "masks", _SEARCH, "prompt_tuning"),
        Method("leave_one_out", "leave one out", "masking:leave_each_out", "masks", _SEARCH, "prompt_tuning"),
    )
}  # fmt: skip
"""Every method by its name, in the order of tables and legends."""


def get_method(name: str) -> Method:
    """Return a method's declaration. Raises `ConfigError` naming the known methods where there is none."""
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; known: {', '.join(METHODS)}.{did_you_mean(name, METHODS)}")
    return METHODS[name]
