"""A short digest of a model's weights, by which runs recognise the same backbone."""

from __future__ import annotations

import hashlib

import torch

_SAMPLED = 2**20


def fingerprint(model: torch.nn.Module) -> str:
    """Return 16 hex digits over every tensor's name, shape, dtype and values (of over a million values: every n-th)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return digest.hexdigest()[:16]
