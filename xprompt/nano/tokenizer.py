"""The tokenizer of the embedded model: one piece a word of the small world, characters and bytes for all other text."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from xprompt.nano import corpus, world

SPECIAL = ("<pad>", "</s>", "<unk>")
#: `'s` is a separate word, and so is each punctuation mark.
SPLIT = r"'s\b|[.,:;?!\"'*()\-]"


def vocabulary(sample: int = 40_000) -> list[str]:
    """Return every word and mark of a sample of the corpus, the commonest first, ties in alphabetical order."""
    rng = world.stream(0, "vocabulary")
    counts: dict[str, int] = {}
    for number in range(sample):
        for text in corpus.draw(rng, number / sample):
            for word in re.findall(rf"{SPLIT}|[^\s.,:;?!\"'*()\-]+", text.replace(corpus.BLANK, " ")):
                counts[word] = counts.get(word, 0) + 1
    for word in corpus.QUOTED:
        counts.setdefault(word, 0)
    return sorted(counts, key=lambda w: (-counts[w], w))


def build() -> Tokenizer:
    """Return the tokenizer: `<pad>` 0, `</s>` 1 (appended), `<unk>` 2, words, characters, bytes, sentinels."""
    words = [f"▁{w}" for w in vocabulary()]
    letters = ["▁", *(chr(c) for c in range(33, 127))]
    raw = [f"<0x{b:02X}>" for b in range(256)]
    pieces: list[tuple[str, float]] = [(p, 0.0) for p in SPECIAL]
    pieces += [(w, -1.0) for w in words]
    pieces += [(c, -10.0) for c in letters if c not in words]
    pieces += [(b, -20.0) for b in raw]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.Metaspace("▁", "always"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace("▁", "always"),
            decoders.Replace(Regex(r" (?=[.,:;?!)]|'s)"), ""),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_special_tokens([AddedToken(corpus.BLANK, special=True, normalized=False)])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, so that plain `AutoTokenizer` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": [corpus.BLANK],
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
