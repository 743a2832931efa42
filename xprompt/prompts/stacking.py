"""Several prompts as one padded tensor."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xprompt.prompts.soft_prompt import SoftPrompt


def stack(prompts: list[SoftPrompt]) -> tuple[Float[Tensor, "C Q H"], Bool[Tensor, "C Q"]]:
    """Vectors of C prompts as one tensor, the shorter ones filled up *in front*, and where each has a vector.

    Gradients flow back to each prompt on its own.
    """
    vectors = [prompt() for prompt in prompts]
    longest = max(map(len, vectors))
    filled = [nn.functional.pad(v, (0, 0, longest - len(v), 0)) for v in vectors]
    prompt_mask = [torch.arange(longest, device=v.device) >= longest - len(v) for v in vectors]
    return torch.stack(filled), torch.stack(prompt_mask)
