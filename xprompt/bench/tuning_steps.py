"""The steps of `tune` alone, without its evaluations: what the comparisons of steps time."""

from __future__ import annotations

from collections.abc import Sequence

from xprompt.backbones.base import Backbone, Verbalizer
from xprompt.backbones.subnormals import subnormals_as_zero
from xprompt.config.settings import TuneSettings
from xprompt.data.batching import Batch, batches
from xprompt.data.splits import Splits
from xprompt.prompts.soft_prompt import SoftPrompt
from xprompt.training.candidate import Candidate
from xprompt.training.evaluation import prompt_rows


class TuningSteps:
    """Do one step a batch, as `tune` does it (loss, backward, update); every call starts from the same prompt.

    Args:
        backbone: frozen.
        prompt: where each call starts; it is not changed.
        batches: one step each.
        verbalizer: of the batches' task, by this backbone.
        settings: of which optimiser, schedule and objective count.
    """

    def __init__(
        self, backbone: Backbone, prompt: SoftPrompt, batches: Sequence[Batch], verbalizer: Verbalizer,
        settings: TuneSettings,
    ) -> None:  # fmt: skip
        self.backbone, self.prompt, self.batches = backbone, prompt, batches
        self.verbalizer, self.settings = verbalizer, settings

    @classmethod
    def over(
        cls, backbone: Backbone, prompt: SoftPrompt, splits: Splits, settings: TuneSettings, *, seed: int = 0
    ) -> TuningSteps:
        """Tokenise one epoch of `train`, in `tune`'s batches."""
        drawn = list(batches(backbone.encode(splits.train), settings.batch_size, seed=seed))
        return cls(backbone, prompt, drawn, backbone.verbalizer(splits.task), settings)

    def __call__(self) -> SoftPrompt:
        """Return the prompt after the last step."""
        prompt = self.prompt.clone().to(self.backbone.device)
        candidate = Candidate(prompt, list(prompt.parameters()), self.settings, prompt.clone)
        candidate.start(sum(map(len, self.batches)), "train", 0)
        for batch in self.batches:
            with subnormals_as_zero(self.backbone.device):
                vectors, prompt_mask, prompt_index = prompt_rows([prompt], [len(batch)], self.backbone.device)
                losses = self.backbone.loss(
                    vectors, batch, self.verbalizer, prompt_mask, self.settings.objective, prompt_index
                )  # (B,)
                loss = losses.mean()
                loss.backward()
            candidate.step(loss.detach())
        return prompt
