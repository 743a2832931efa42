"""The soft prompt: its embeddings (P, H), its masks γ (P,) and ζ (P, K), its initial values, its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from xprompt import html
from xprompt.errors import ConfigError, NotFiniteError, StoreError, shown
from xprompt.files import parse_json, path_of, sha256, write_atomically
from xprompt.prompts.card import DescribedBackbone, PromptCard, card_for, write_card
from xprompt.signatures import check_arguments
from xprompt.streams import stream_seed
from xprompt.tasks.task import Task

#: The tensors of a prompt in a file.
PARTS = ("embeddings", "token_mask", "piece_mask")
_FILE, _OLD_FACTS = "prompt.safetensors", "prompt.json"
_COMMONEST = 5000  # Lester et al. (2021), §3.1


@runtime_checkable
class HasVocabulary(Protocol):
    """The part of a backbone that initialisers need."""

    name: str
    tokenizer: Any

    def embedding_rows(self) -> Float[Tensor, "V H"]:
        """Return the input embeddings as the model sees them, one row a vocabulary entry."""

    def verbalizer(self, task: Task) -> Any:
        """Return the task's label words in tokens, `sequences`. Raises `BackboneError` where they cannot be."""


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
        ConfigError: embeddings of another shape or dtype, a K that is no whole number or does not divide H, or an
            unknown mode.

    Source: paper §3.2 (γ, ζ). Differs: both readings of a pruned position are supported.
    """

    token_mask: Tensor
    piece_mask: Tensor
    card: PromptCard | None = None  #: what it was tuned for; `tune` sets it, `save` writes it

    def __init__(self, embeddings: Float[Tensor, "P H"], *, pieces: int = 16, mode: str = "zero") -> None:
        super().__init__()
        if embeddings.dim() != 2 or not embeddings.is_floating_point() or 0 in embeddings.shape:
            raise ConfigError(
                f"a prompt needs (P, H) floating-point embeddings, P and H at least 1; given was {embeddings.dtype} of "
                f"shape {tuple(embeddings.shape)}."
            )
        length, hidden = embeddings.shape
        pieces = _count("pieces", pieces)
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
    def num_vectors(self) -> int:
        """Return Q, how many vectors stand before the input: P in mode "zero", the surviving tokens in mode "drop"."""
        return int(self.surviving_tokens.sum()) if self.mode == "drop" else self.length

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
    @check_arguments
    def init(
        cls,
        backbone: HasVocabulary,
        length: int = 20,
        init: str | SoftPrompt = "vocab",
        seed: int = 0,
        *,
        pieces: int | None = None,
        task: Task | None = None,
    ) -> SoftPrompt:
        """Make a new prompt for this backbone.

        Args:
            length: P ≥ 1.
            init: "vocab", rows sampled without replacement from the used vocabulary (special tokens and the unused
                rows after the tokenizer's last entry are kept out); "common", the same from its first 5,000
                entries, which tokenizers order by frequency; "uniform", [−0.5, 0.5]; "labels", each label word's
                mean vector in turn, the rest sampled as "vocab"; "first", the vocabulary's first rows, special tokens
                among them, which OpenPrompt calls initialisation from the vocabulary; or another prompt of this
                length and width, which is copied whole: values, masks, mode and card.
            seed: of the sampling; 0 is a seed like any other.
            pieces: K, a divisor of H; by default 16, and of a copied prompt its own, the only number it can have.
            task: needed by "labels".

        Raises:
            ConfigError: a length, initialiser or number of pieces that cannot be, or that the copied prompt differs in.
            BackboneError: with "labels", a label word that the backbone has no tokens or no embedding for.

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
        length = _count("length", length)
        table = backbone.embedding_rows().detach().float()  # (V, H)
        if isinstance(init, SoftPrompt):
            if init.length != length:
                raise ConfigError(f"the source prompt has {init.length} tokens, {length} were asked for.")
            if init.embeddings.shape[1] != table.shape[1]:
                raise ConfigError(
                    f"the source prompt is {init.embeddings.shape[1]} wide, {backbone.name} needs {table.shape[1]}: "
                    "give a prompt for a backbone of that width, or init='vocab'."
                )
            if pieces is not None and _count("pieces", pieces) != init.pieces:
                raise ConfigError(
                    f"the source prompt has {init.pieces} pieces a token, {pieces} were asked for: leave pieces= out, "
                    "or make SoftPrompt(source.embeddings, pieces=...), which has no masks yet."
                )
            return init.clone().to(table.device)
        pieces = 16 if pieces is None else pieces
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
            for row, ids in enumerate(backbone.verbalizer(task).sequences[:length]):  # the words as they are scored
                values[row] = table[list(ids)].mean(dim=0)
        return cls(values, pieces=pieces)

    def save(
        self,
        folder: str | Path,
        *,
        backbone: DescribedBackbone | None = None,
        task: Task | None = None,
        **more: Any,
    ) -> Path:
        """Write `prompt.safetensors`, whole or not at all; a reloaded prompt is equal to the last bit.

        Beside it, what `xprompt.classifier` needs: `xprompt.json` and a model card, of the prompt's own card, or of
        the backbone and the task given here.

        Args:
            backbone, task: what the prompt is for; both or neither.
            more: other fields of `PromptCard`, such as `metrics`.

        Raises:
            NotFiniteError: a value is infinite or not a number.
            StoreError: the folder cannot be written.
        """
        folder = path_of(folder)
        card = card_for(self.card, backbone, task, more)
        tensors, about = self.pack()
        write_atomically(folder / _FILE, save(tensors, metadata={"prompt": about}))
        (folder / _OLD_FACTS).unlink(missing_ok=True)
        write_card(folder, card, "xprompt", self.describe())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> SoftPrompt:
        """Read what `save` wrote, in this version or an earlier one.

        Raises:
            StoreError: the file is missing or damaged by as much as one bit, a value is not finite, or the card
                beside it is damaged.
        """
        folder = path_of(folder)
        try:
            content = (folder / _FILE).read_bytes()
            tensors = load(content)
            about = _metadata(content).get("prompt")
            if about is None:  # until 0.1.0: no checksum, and a second file
                facts = parse_json((folder / _OLD_FACTS).read_text(encoding="utf-8"))
                prompt = cls._of(tensors, facts["mode"])
                if (facts["length"], facts["pieces"]) != (prompt.length, prompt.pieces):
                    raise ValueError("its two files disagree in length or pieces")
            else:
                prompt = cls.unpack(tensors, about)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise StoreError(
                f"{folder} holds no readable prompt ({error}); it needs {_FILE} as SoftPrompt.save writes it. "
                "Save it again."
            ) from error
        prompt.card = PromptCard.read(folder)  # its error names that file
        return prompt

    def pack(self) -> tuple[dict[str, Tensor], str]:
        """Return the prompt as tensors for a file, and a line of JSON that holds its mode and its checksum.

        Raises:
            NotFiniteError: a value is infinite or not a number.
        """
        self.check_finite()
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in PARTS}
        return tensors, json.dumps({"mode": self.mode, "sha256": _digest(self.mode, tensors)})

    def check_finite(self) -> None:
        """Raise `NotFiniteError` where a value is infinite or not a number."""
        if not self.embeddings.isfinite().all():
            broken = int((~self.embeddings.isfinite()).any(dim=1).sum())
            raise NotFiniteError(
                f"{broken} of {self.length} prompt tokens hold values that are infinite or not numbers: such a prompt "
                "is neither saved nor exported. Tune again from the last finite one, at a lower learning rate."
            )

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], about: str) -> SoftPrompt:
        """Return the prompt that `pack` packed. Raises `ValueError` or `KeyError` where a bit differs."""
        facts = parse_json(about)
        if _digest(facts["mode"], tensors) != facts["sha256"]:
            raise ValueError("it does not match its sha256")
        return cls._of(tensors, facts["mode"])

    @classmethod
    def _of(cls, tensors: Mapping[str, Tensor], mode: str) -> SoftPrompt:
        embeddings, token_mask, piece_mask = (tensors[name] for name in PARTS)  # (P, H), (P,), (P, K)
        if not embeddings.isfinite().all():
            raise ValueError("it holds values that are infinite or not numbers")
        if piece_mask.dim() != 2 or token_mask.dtype != torch.bool or piece_mask.dtype != torch.bool:
            raise ValueError("its masks are not masks")
        prompt = cls(embeddings, pieces=piece_mask.shape[1], mode=mode)
        if token_mask.shape != prompt.token_mask.shape or piece_mask.shape != prompt.piece_mask.shape:
            raise ValueError("its masks and embeddings disagree in length")
        prompt.token_mask.copy_(token_mask)
        prompt.piece_mask.copy_(piece_mask)
        return prompt


def _count(name: str, value: object) -> int:
    """Return a number of tokens or pieces, NumPy's whole numbers among them, as Python's own."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name}={shown(value)} was given; it must be a whole number of at least 1, such as 16.")
    return int(value)


def _digest(mode: str, tensors: Mapping[str, Tensor]) -> str:
    parts = [tensors[name] for name in PARTS]
    values = b"".join(part.reshape(-1).view(torch.uint8).numpy().tobytes() for part in parts)
    return sha256(f"{mode} {[list(part.shape) for part in parts]} ".encode() + values)


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file that was read already."""
    size = int.from_bytes(content[:8], "little")
    return parse_json(content[8 : 8 + size].decode()).get("__metadata__", {})


def usable_rows(tokenizer: Any, num_rows: int) -> Tensor:
    """Return the vocabulary ids a prompt may start from: known to the tokenizer, not special, in their order."""
    special = set(tokenizer.all_special_ids) | {
        i for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if t.special
    }
    return torch.tensor([i for i in range(min(len(tokenizer), num_rows)) if i not in special])
