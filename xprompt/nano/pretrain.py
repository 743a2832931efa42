"""Pretrain an embedded T5 from scratch on the corpus: `python -m xprompt.nano.pretrain --size nano --output DIR`."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from xprompt.nano import checksums, corpus, tokenizer, world
from xprompt.nano.sizes import SIZES, Size

IGNORED = -100
#: Steps over which the curriculum goes from its easiest to its full level, however long the training is.
RAMP = 5000


def build_model(vocabulary: int, seed: int, size: Size) -> T5ForConditionalGeneration:
    """Return a fresh model whose heads begin with a look before, a look after, and two for words that come again.

    Without that start, judging a claim stays at chance for thousands of steps.
    """
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=size.hidden,
        d_kv=32,
        num_heads=size.heads,
        d_ff=size.feed_forward,
        num_layers=4,
        num_decoder_layers=2,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,  # type: ignore[call-arg]
        relative_attention_num_buckets=32,
    )
    model: Any = T5ForConditionalGeneration(config)
    table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    width = config.d_kv
    with torch.no_grad():
        table.normal_(0.0, 0.1)
        for near in range(1, 6):  # head 0 looks at the five words before, head 1 at the five after
            table[near, 0] = table[16 + near, 1] = 4.0
        table[0, 2] = -12.0  # head 2 looks for its own word elsewhere, head 3 anywhere
        for block in model.encoder.block:
            attention = block.layer[0].SelfAttention
            for head in (2, 3):
                rows = slice(head * width, (head + 1) * width)
                attention.q.weight[rows] = 0.4 * attention.k.weight[rows]
        for block in model.decoder.block:  # what the decoder looks at, it can say
            cross = block.layer[1].EncDecAttention
            nn.init.orthogonal_(cross.v.weight)
            cross.o.weight.copy_(cross.v.weight.T)
    return model


def batches(encode, size: int, steps: int, seed: int) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Yield token ids of sources and targets; pools of 16 batches are loosely sorted by length."""
    rng = world.stream(seed, "corpus")
    pool = 16
    for start in range(0, steps, pool):
        pairs = [corpus.draw(rng, min(1.0, start / RAMP)) for _ in range(size * pool)]
        sources, targets = encode([p[0] for p in pairs]), encode([p[1] for p in pairs])
        order = sorted(range(len(pairs)), key=lambda i: len(sources[i]) + rng.uniform(-6, 6))
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        rng.shuffle(groups)
        for group in groups[: steps - start]:
            yield [sources[i] for i in group], [targets[i] for i in group]


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Return rows (B, longest), padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def optimiser(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return AdamW with faster groups: the embedding ×8, the relative position tables ×20."""
    groups: dict[float, list[nn.Parameter]] = {1.0: [], 8.0: [], 20.0: []}
    for name, parameter in model.named_parameters():
        groups[20.0 if "relative_attention_bias" in name else 8.0 if "shared" in name else 1.0].append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": rate * factor, "peak": rate * factor} for factor, p in groups.items()],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )


def pretrain(size: Size, steps: int, seed: int, batch: int, rate: float, output: Path, every: int = 100) -> None:
    """Train for `steps` and write the checkpoint."""
    started = time.time()
    tok = tokenizer.build()
    tok.no_padding()

    def encode(texts: list[str]) -> list[list[int]]:
        return [e.ids for e in tok.encode_batch(texts)]

    model = build_model(tok.get_vocab_size(), seed, size)
    print(f"vocabulary {tok.get_vocab_size()}, parameters {model.num_parameters():,}", flush=True)
    adam = optimiser(model, rate)
    losses: list[float] = []
    half = size != SIZES["nano"]
    for step, (sources, targets) in enumerate(batches(encode, batch, steps, seed)):
        scale = min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in adam.param_groups:
            group["lr"] = group["peak"] * max(scale, 0.01)
        ids = pad(sources, 0)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=pad(targets, IGNORED)).loss
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
        if (step + 1) % every == 0:
            print(
                f"step {step + 1:5d}/{steps}  loss {sum(losses[-every:]) / every:.3f}  {time.time() - started:6.0f} s",
                flush=True,
            )
        if (step + 1) % 250 == 0:
            print("  ", {k: round(100 * v) for k, v in skills(model, encode).items()}, flush=True)
            save(model, tok, output, half)
    save(model, tok, output, half)
    (output / "training.json").write_text(
        json.dumps(
            {
                "seed": seed,
                "steps": len(losses),
                "batch": batch,
                "rate": rate,
                "threads": torch.get_num_threads(),
                "minutes": round((time.time() - started) / 60, 1),
                "loss": round(sum(losses[-every:]) / every, 4),
            }
        )
        + "\n"
    )


def skills(model: T5ForConditionalGeneration, encode, size: int = 200, seed: int = 1) -> dict[str, float]:
    """Return the share of exactly right first words of answers, by frame of the corpus, on fresh draws."""
    shares = {}
    with torch.no_grad():
        for frame in corpus.FRAMES:
            rng = world.stream(seed, "skills", frame.__name__)
            pairs = [frame(rng, 1.0) for _ in range(size)]
            ids, wanted = pad(encode([p[0] for p in pairs]), 0), [e[0] for e in encode([p[1] for p in pairs])]
            start = torch.zeros(size, 1, dtype=torch.long)
            best = model(input_ids=ids, attention_mask=(ids != 0).long(), decoder_input_ids=start).logits[:, 0]
            shares[frame.__name__] = sum(a == b for a, b in zip(best.argmax(-1).tolist(), wanted, strict=True)) / size
    return shares


def save(model: T5ForConditionalGeneration, tok, output: Path, half: bool = False) -> None:
    """Write the model and the tokenizer to a folder, with the checksums that loading verifies.

    Args:
        half: store float16, which is what a larger size is then, so that all three stay small enough for a package.
    """
    (copy.deepcopy(model).half() if half else model).save_pretrained(output)
    tokenizer.save(tok, output)
    checksums.write(output)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="nano")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, help="default: the size's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: its folder in this package")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = SIZES[options.size]
    rate = size.rate if options.rate is None else options.rate
    pretrain(size, options.steps, options.seed, options.batch, rate, options.output or size.path)


if __name__ == "__main__":
    main()
