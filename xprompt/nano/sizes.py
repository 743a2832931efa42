"""The sizes of the embedded model: one recipe, one corpus, three widths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xprompt import nano


@dataclass(frozen=True)
class Size:
    """A T5 of 4 encoder and 2 decoder layers with heads of 32 values.

    Args:
        folder: of its checkpoint, in this room.
        hidden: H, the width of its embeddings.
        heads: of each attention.
        feed_forward: width of each feed-forward layer.
        rate: peak learning rate of its pretraining. At nano's, nano-2x did not learn to judge claims.
    """

    folder: str
    hidden: int
    heads: int
    feed_forward: int
    rate: float

    @property
    def path(self) -> Path:
        """The folder of its checkpoint."""
        return Path(nano.__file__).parent / self.folder


#: by the name that `load_backbone` takes
SIZES = {
    "nano": Size("checkpoint", 128, 4, 384, 1.2e-3),
    "nano-2x": Size("checkpoint_2x", 192, 6, 512, 8e-4),
    "nano-4x": Size("checkpoint_4x", 256, 8, 768, 6e-4),
}
