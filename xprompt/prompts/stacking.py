"""Several prompts as one padded tensor."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xprompt.prompts.soft_prompt import SoftPrompt


def stack(prompts: list[SoftPrompt]) -> tuple[Float[Tensor, "C Q H"], Bool[Tensor, "C Q"]]:
    """Stack C prompts into one tensor, the shorter ones padded *in front*, so that all end next to the input.

    Returns:
        (vectors, prompt_mask): Q is the longest prompt's length; the mask is True where a prompt has a vector. Each
        prompt gets its own gradient through the stack.
    """
    vectors = [prompt() for prompt in prompts]  # C × (Qᵢ, H)
    longest = max(map(len, vectors))
    padded = [nn.functional.pad(v, (0, 0, longest - len(v), 0)) for v in vectors]
    prompt_mask = [torch.arange(longest, device=v.device) >= longest - len(v) for v in vectors]
    return torch.stack(padded), torch.stack(prompt_mask)
