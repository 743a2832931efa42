"""The soft prompt: its embeddings (P, H), its masks γ (P,) and ζ (P, K), its initial values, its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from xprompt import html
from xprompt.errors import ConfigError, StoreError
from xprompt.files import write_atomically
from xprompt.prompts.card import DescribedBackbone, PromptCard, card_for, write_card
from xprompt.streams import stream_seed
from xprompt.tasks.task import Task

_COMMONEST = 5000  # Lester et al. (2021), §3.1


class HasVocabulary(Protocol):
    """The part of a backbone that initialisers need."""

    name: str
    tokenizer: Any

    def embedding_rows(self) -> Float[Tensor, "V H"]:
        """Return the input embeddings as the model sees them, one row a vocabulary entry."""


class SoftPrompt(nn.Module):
    """Hold a prompt of P tokens × H dimensions, each token K equal contiguous pieces, with a mask at both levels.

    The masks are applied in every forward pass, so a pruned entry is exactly zero however long training goes on,
    and gets no gradient.

    Args:
        embeddings: (P, H), float; H must be a multiple of `pieces`.
        pieces: K ≥ 1.
        mode: what becomes of a pruned token's position: "zero" keeps it, as a zero vector that is still attended
            to; "drop" removes it from the sequence. The paper does not say which; they are different models.

    Raises:
        ConfigError: K does not divide H, or an unknown mode.

    Source: paper §3.2 (γ, ζ). Differs: both readings of a pruned position are supported.
    """

    token_mask: Tensor
    piece_mask: Tensor
    card: PromptCard | None = None  #: what it was tuned for; `tune` sets it, `save` writes it

    def __init__(self, embeddings: Float[Tensor, "P H"], *, pieces: int = 16, mode: str = "zero") -> None:
        super().__init__()
        length, hidden = embeddings.shape
        if hidden % pieces:
            raise ConfigError(
                f"{pieces} pieces do not divide the embedding width {hidden}: choose a divisor of {hidden}."
            )
        if mode not in ("zero", "drop"):
            raise ConfigError(f"unknown mode {mode!r}: choose 'zero' or 'drop'.")
        self.mode = mode
        self.embeddings = nn.Parameter(embeddings.detach().clone())
        self.register_buffer("token_mask", torch.ones(length, dtype=torch.bool, device=embeddings.device))
        self.register_buffer("piece_mask", torch.ones(length, pieces, dtype=torch.bool, device=embeddings.device))

    @property
    def length(self) -> int:
        """Return P, pruned tokens included."""
        return self.embeddings.shape[0]

    @property
    def pieces(self) -> int:
        """Return K."""
        return self.piece_mask.shape[1]

    @property
    def surviving_pieces(self) -> Bool[Tensor, "P K"]:
        """Return True where both masks keep the piece."""
        return self.piece_mask & self.token_mask[:, None]

    @property
    def surviving_tokens(self) -> Bool[Tensor, " P"]:
        """Return True for tokens with a surviving piece; a token that lost all its pieces is a pruned token."""
        return self.surviving_pieces.any(dim=1)

    @property
    def surviving_entries(self) -> Bool[Tensor, "P H"]:
        """Return True where the embedding's entry lies in a surviving piece."""
        return self.surviving_pieces.repeat_interleave(self.embeddings.shape[1] // self.pieces, dim=1)

    @property
    def num_params(self) -> int:
        """Count the tunable values: the entries of the surviving pieces. Source: paper Tab 3."""
        return int(self.surviving_pieces.sum()) * (self.embeddings.shape[1] // self.pieces)

    def masked(self) -> Float[Tensor, "P H"]:
        """Return the embeddings with every pruned entry exactly zero, all positions kept."""
        return torch.where(self.surviving_entries, self.embeddings, torch.zeros_like(self.embeddings))

    def __repr__(self) -> str:
        card = self.card
        goes = "" if card is None else f" For {card.task.name} on {card.backbone if len(card.backbone) < 80 else '…'}."
        return f'SoftPrompt({self.describe()} Mode "{self.mode}".{goes})'

    def _repr_html_(self) -> str:
        """Show the length of each surviving piece."""
        lengths = self.masked().detach().float().unflatten(1, (self.pieces, -1)).norm(dim=-1)  # (P, K)
        rows = zip(lengths.tolist(), self.surviving_pieces.tolist(), strict=True)
        kept = [[x if keep else None for x, keep in zip(*row, strict=True)] for row in rows]
        return html.heat_map(
            kept, f"{self.describe()} Rows: tokens; columns: pieces, by their length; outlined: pruned."
        )

    def forward(self) -> Float[Tensor, "Q H"]:
        """Return the vectors to put before the input: Q = P in mode "zero", the surviving tokens in mode "drop"."""
        vectors = self.masked()  # (P, H)
        return vectors[self.surviving_tokens] if self.mode == "drop" else vectors

    def clone(self) -> SoftPrompt:
        """Return an independent copy: values, masks and mode."""
        copy = SoftPrompt(self.embeddings, pieces=self.pieces, mode=self.mode)
        copy.token_mask.copy_(self.token_mask)
        copy.piece_mask.copy_(self.piece_mask)
        copy.card = self.card
        return copy

    def describe(self) -> str:
        """Return its size in a sentence: tokens, pieces, and how many of them survive."""
        tokens, pieces = int(self.surviving_tokens.sum()), int(self.surviving_pieces.sum())
        pruned = tokens < self.length or pieces < self.piece_mask.numel()
        left = (
            f", of which {tokens} tokens and {pieces:,} of {self.piece_mask.numel():,} pieces survive" if pruned else ""
        )
        return f"{self.length} tokens of {self.embeddings.shape[1]} values in {self.pieces} pieces{left}."

    @classmethod
    def init(
        cls,
        backbone: HasVocabulary,
        length: int = 20,
        init: str | SoftPrompt = "vocab",
        seed: int = 0,
        *,
        pieces: int = 16,
        task: Task | None = None,
    ) -> SoftPrompt:
        """Make a new prompt for this backbone.

        Args:
            length: P ≥ 1.
            init: "vocab", rows sampled without replacement from the used vocabulary (special tokens and the unused
                rows after the tokenizer's last entry are kept out); "common", the same from its first 5,000
                entries, which tokenizers order by frequency; "uniform", [−0.5, 0.5]; "labels", each label word's
                mean vector in turn, the rest sampled as "vocab"; "first", the vocabulary's first rows, special tokens
                among them, which OpenPrompt calls initialisation from the vocabulary; or another prompt, whose
                values are copied.
            seed: of the sampling; 0 is a seed like any other.
            pieces: K, a divisor of H.
            task: needed by "labels".

        Raises:
            ConfigError: a length, initialiser or number of pieces that cannot be.

        Source: paper §4.1 and Tab 6; Lester et al. (2021) §3.1.
        Differs: OpenPrompt's "vocab" takes the first rows of the table; here they are sampled.

        Example:
            >>> import xprompt as xp
            >>> prompt = xp.SoftPrompt.init(xp.load_backbone("nano"), length=20, seed=0)
            >>> prompt
            SoftPrompt(20 tokens of 128 values in 16 pieces. Mode "zero".)
            >>> prompt.num_params
            2560
        """
        if length < 1:
            raise ConfigError(f"a prompt of {length} tokens was asked for; it needs at least 1.")
        if isinstance(init, SoftPrompt):
            if init.length != length:
                raise ConfigError(f"the source prompt has {init.length} tokens, {length} were asked for.")
            return init.clone()
        table = backbone.embedding_rows().detach().float()  # (V, H)
        generator = torch.Generator().manual_seed(stream_seed(seed, "initialisation"))
        if init == "uniform":
            values = torch.rand(length, table.shape[1], generator=generator) - 0.5  # (P, H)
            return cls(values.to(table.device), pieces=pieces)
        if init == "first" and length <= len(table):
            return cls(table[:length], pieces=pieces)
        usable = usable_rows(backbone.tokenizer, len(table))
        if init == "common":
            usable = usable[:_COMMONEST]
        elif init not in ("vocab", "labels", "first"):
            raise ConfigError(
                f"unknown initialiser {init!r}: choose vocab, common, uniform, labels, first or a SoftPrompt."
            )
        if len(usable) < length:
            raise ConfigError(f"{length} prompt tokens cannot be sampled from {len(usable)} usable vocabulary rows.")
        sampled = usable[torch.randperm(len(usable), generator=generator)[:length]]  # (P,)
        values = table[sampled.to(table.device)].clone()  # (P, H)
        if init == "labels":
            if task is None:
                raise ConfigError("init='labels' starts from the label words: pass task=.")
            words = [backbone.tokenizer(w, add_special_tokens=False).input_ids for w in task.label_words]
            for row, ids in enumerate(words[:length]):
                values[row] = table[ids].mean(dim=0)
        return cls(values, pieces=pieces)

    def save(
        self,
        folder: str | Path,
        *,
        backbone: DescribedBackbone | None = None,
        task: Task | None = None,
        **more: Any,
    ) -> Path:
        """Write `prompt.safetensors` and `prompt.json`; a reloaded prompt is equal to the last bit.

        Beside them, what `xprompt.classifier` needs: `xprompt.json` and a model card, of the prompt's own card, or of
        the backbone and the task given here.

        Args:
            backbone, task: what the prompt is for; both or neither.
            more: other fields of `PromptCard`, such as `metrics`.
        """
        folder = Path(folder)
        card = card_for(self.card, backbone, task, more)
        tensors = {"embeddings": self.embeddings.detach(), "token_mask": self.token_mask, "piece_mask": self.piece_mask}
        content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        write_atomically(folder / "prompt.safetensors", content)
        facts = {"format": 1, "mode": self.mode, "length": self.length, "pieces": self.pieces}
        facts["hidden_size"] = self.embeddings.shape[1]
        write_atomically(folder / "prompt.json", json.dumps(facts, indent=1))
        write_card(folder, card, "xprompt", self.describe())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> SoftPrompt:
        """Read what `save` wrote.

        Raises:
            StoreError: a file is missing or damaged, or the two do not belong together.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / "prompt.json").read_text())
            tensors = load((folder / "prompt.safetensors").read_bytes())
            prompt = cls(tensors["embeddings"], pieces=facts["pieces"], mode=facts["mode"])
            if tensors["token_mask"].shape != prompt.token_mask.shape or facts["length"] != prompt.length:
                raise ValueError("its masks and embeddings disagree in length")
            prompt.token_mask.copy_(tensors["token_mask"])
            prompt.piece_mask.copy_(tensors["piece_mask"])
            prompt.card = PromptCard.read(folder)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise StoreError(
                f"{folder} holds no readable prompt ({error}); it needs prompt.json and prompt.safetensors "
                "as SoftPrompt.save writes them. Save it again."
            ) from error
        return prompt


def usable_rows(tokenizer: Any, num_rows: int) -> Tensor:
    """Return the vocabulary ids a prompt may start from: known to the tokenizer, not special, in their order."""
    special = set(tokenizer.all_special_ids) | {
        i for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if t.special
    }
    return torch.tensor([i for i in range(min(len(tokenizer), num_rows)) if i not in special])
