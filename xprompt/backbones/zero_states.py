"""Stop gradients where a decoder-only LM's state is exactly zero, so that they stay finite.

A prompt whose *first* tokens are pruned in mode "zero" starts with zero vectors. Such a token sees nothing but zeros,
and where a model has no biases its state stays zero in every layer. There a norm divides by the root of its epsilon
alone: it multiplies the gradient by 300 (an epsilon of 1e-5), twice a layer. Some fifteen layers on it is infinite, and
the attention, where it meets the masked zeros of other positions, makes all gradients of the prompt NaN.

Where all tokens that are zero are pruned, no value that is tuned reaches such a state, and nothing is lost where its
gradient ends. A token that survives with zeros for values would not be tuned: `training.tune.check_tunable` refuses it.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


def stop_gradients_at_zero_states(model: nn.Module) -> None:
    """Make every block of the model pass no gradient back where the state that it returns is a zero vector."""
    for block in model.modules():
        known = block._forward_hooks.values()  # a copy of a model has them already
        if isinstance(block, GradientCheckpointingLayer) and _stop not in known:
            block.register_forward_hook(_stop)


def _stop(block: nn.Module, given: Any, output: Any) -> Any:
    states = output[0] if isinstance(output, tuple) else output  # (B, S, H)
    if not states.requires_grad:
        return None
    stopped = _stopped(states)
    return (stopped, *output[1:]) if isinstance(output, tuple) else stopped


def _stopped(states: Float[Tensor, "B S H"]) -> Float[Tensor, "B S H"]:
    is_zero = ~states.any(dim=-1, keepdim=True)  # (B, S, 1)
    if states.device.type == "cpu" and not is_zero.any():  # a GPU would have to be waited for
        return states
    return states.masked_fill(is_zero, 0.0)
