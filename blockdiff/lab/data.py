"""The text that all families learn: one corpus, one vocabulary, windows of equal length."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from blockdiff.errors import InputFileError, InvalidRequest
from blockdiff.train.build_corpus import BuildOptions, build
from blockdiff.train.corpus import Corpus, Split
from blockdiff.train.sources import Sources

END = "<end>"
"""Between two documents; it stands for no byte."""
_SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclass(frozen=True, eq=False)
class LabData:
    """Encoded text, immutable: of each split tokens (n,) int32, documents one after the other."""

    tokenizer: Tokenizer
    tokens: dict[str, Tensor]

    @property
    def vocab_size(self) -> int:
        return len(self.bytes_of)

    @cached_property
    def bytes_of(self) -> Tensor:
        """(vocab,) bytes of each token: it has one character for each."""
        names = map(self.tokenizer.id_to_token, range(self.tokenizer.get_vocab_size()))
        return torch.tensor([0 if name == END else len(name or "") for name in names])

    @cached_property
    def frequencies(self) -> Tensor:
        """(vocab,) of single tokens in the training split, one added to each count."""
        counts = torch.bincount(self.tokens["train"], minlength=self.vocab_size).float() + 1
        return counts / counts.sum()

    @cached_property
    def groups(self) -> Tensor:
        """(groups, size) ids of near tokens."""
        return near_groups(self.tokens["train"], self.vocab_size)

    def batch(self, size: int, length: int, g: torch.Generator) -> Tensor:
        """(size, length) training windows at random places."""
        text = self.tokens["train"]
        starts = torch.randint(0, len(text) - length + 1, (size, 1), generator=g)
        return text[starts + torch.arange(length)].long()

    def heldout(self, length: int, most: int) -> Tensor:
        """(n, length): at most `most` windows, evenly spread, that do not overlap."""
        text = self.tokens["heldout"]
        windows = text[: len(text) // length * length].view(-1, length)
        picked = torch.linspace(0, len(windows) - 1, min(most, len(windows))).long()
        return windows[picked].long()

    def nbytes(self, tokens: Tensor) -> Tensor:
        """Bytes of text along the last dimension."""
        return self.bytes_of[tokens].sum(-1)

    def text(self, tokens: Tensor) -> str:
        """Of tokens (n,), masks among them as blocks; some text has pieces of characters."""
        between = tokens.tensor_split((tokens == self.vocab_size).nonzero().flatten())
        parts = [part[part != self.vocab_size].tolist() for part in between]
        return "\u2591".join(self.tokenizer.decode_batch(parts, skip_special_tokens=False))


def open_data(folder: Path, vocab_size: int, length: int, corpus: Path | None) -> LabData:
    """The encoded text in `folder`, made there from a corpus where it is not yet.

    Args:
        corpus: folder that `train corpus` wrote, a text file, or a folder of text files; None:
            what is in `folder`, or Python's standard library.

    Raises:
        InvalidRequest: too small a vocabulary, or another one than that of the text in `folder`.
        InputFileError: too little text, no text, or damaged files.
    """
    if vocab_size <= 256:
        problem = f"a vocabulary of {vocab_size} has no token for every byte"
        raise InvalidRequest(problem, "use 257 or more; 4096 is usual")
    path = folder / "tokens.safetensors"
    if path.is_file():
        data = _load(path)
    else:
        data = _encoded(_texts(folder, corpus), vocab_size)
    least = min(len(ids) for ids in data.tokens.values())
    if least < 4 * length:
        problem = f"too little text: {least} tokens of a split, windows have {length}"
        raise InputFileError(problem, "give more text by --corpus")
    if data.vocab_size != vocab_size:
        problem = f"the text in {folder} has a vocabulary of {data.vocab_size}, not {vocab_size}"
        hint = "use the same preset, or another folder; new text may be too little: give more"
        raise InvalidRequest(problem, hint)
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(data.tokens, partial, metadata={"tokenizer": data.tokenizer.to_str()})
        os.replace(partial, path)
    return data


def _load(path: Path) -> LabData:
    try:
        with safe_open(path, framework="pt") as stored:
            tokenizer = Tokenizer.from_str(stored.metadata()["tokenizer"])
            return LabData(tokenizer, {split: stored.get_tensor(split) for split in _SPLITS})
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raises bare ones
        problem = f"the encoded text in {path} is damaged: {error}"
        raise InputFileError(problem, "remove it to make it anew") from None


def _encoded(texts: dict[str, list[str]], vocab_size: int) -> LabData:
    """Train the vocabulary on the training split, encode both."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts["train"], trainer)
    end = tokenizer.token_to_id(END)
    tokens: dict[str, Tensor] = {}
    for split in _SPLITS:
        encoded = tokenizer.encode_batch(texts[split])
        ids = [i for document in encoded for i in (*document.ids, end)]
        tokens[split] = torch.tensor(ids, dtype=torch.int32)
    return LabData(tokenizer, tokens)


def _texts(folder: Path, corpus: Path | None) -> dict[str, list[str]]:
    """Python documents by split; of plain files each 20th piece of 4,000 characters is held out."""
    if corpus is not None and not (corpus / "manifest.json").is_file():
        files = sorted(p for p in corpus.rglob("*") if p.is_file()) if corpus.is_dir() else [corpus]
        try:
            whole = [path.read_text("utf-8") for path in files]
        except (OSError, UnicodeDecodeError) as error:
            raise InputFileError(f"cannot read {corpus}: {error}", "give UTF-8 text") from None
        pieces = [text[i : i + 4000] for text in whole for i in range(0, len(text), 4000)]
        held = pieces[::20]
        del pieces[::20]
        return {"train": pieces, "heldout": held}
    if corpus is None:
        corpus = folder / "corpus"
        if not (corpus / "manifest.json").is_file():
            options = BuildOptions(package_bytes=16 << 20, languages=("python",))
            build(corpus, Sources(stdlib=Sources.discover().stdlib), options=options)
    read = Corpus.open(corpus).documents
    return {split: [d.text for d in read(split) if d.language == "python"] for split in _SPLITS}


def near_groups(tokens: Tensor, vocab_size: int) -> Tensor:
    """(groups, size) ids, each once: tokens that stand between alike neighbours, in groups of 16 or
    whatever smaller power of two divides the vocabulary.

    How often each stands before and behind the 256 commonest tokens are its features; sixteen parts
    by the direction of most variance are sorted by the next direction.
    """
    kinds, size = min(256, vocab_size), math.gcd(16, vocab_size)
    column = torch.full((vocab_size,), -1)
    column[torch.bincount(tokens, minlength=vocab_size).topk(kinds).indices] = torch.arange(kinds)
    before, after = tokens[:-1].long(), tokens[1:].long()
    counts = []
    for here, there in ((after, column[before]), (before, column[after])):
        pairs = (here * kinds + there)[there >= 0]
        counts.append(torch.bincount(pairs, minlength=vocab_size * kinds).view(vocab_size, kinds))
    features = torch.nn.functional.normalize(torch.cat(counts, dim=1).float().sqrt(), dim=1)
    torch.manual_seed(0)  # pca_lowrank draws
    first, second = (features @ torch.pca_lowrank(features, q=2)[2]).argsort(0).argsort(0).T
    return torch.argsort(first * 16 // vocab_size * vocab_size + second).view(-1, size)
