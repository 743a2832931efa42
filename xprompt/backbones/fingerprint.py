"""What tells one backbone's weights from another's."""

from __future__ import annotations

import hashlib

import torch

_SAMPLED = 2**20


def fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits over every tensor's name, shape, dtype and values (a tensor of over a million: every n-th)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return digest.hexdigest()[:16]
