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
from tokenizers import ByteLevelBPETokenizer, Tokenizer
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
        """(groups, size) ids, each once: tokens that stand between alike neighbours, in groups of
        16 or whatever smaller power of two divides the vocabulary.

        How often each stands before and behind the 256 commonest tokens are its features; sixteen
        parts by the direction of most variance are sorted by the next direction.
        """
        tokens, vocab = self.tokens["train"].long(), self.vocab_size
        kinds = min(256, vocab)
        column = torch.full((vocab,), kinds)  # the last one, of all others, is left out
        column[tokens.bincount(minlength=vocab).topk(kinds).indices] = torch.arange(kinds)
        counts = torch.zeros(vocab, 2, kinds + 1)
        for side, here, there in ((0, tokens[1:], tokens[:-1]), (1, tokens[:-1], tokens[1:])):
            counts[:, side].index_put_((here, column[there]), torch.ones(()), accumulate=True)
        features = torch.nn.functional.normalize(counts[..., :-1].flatten(1).sqrt(), dim=1)
        torch.manual_seed(0)  # pca_lowrank draws
        first, second = (features @ torch.pca_lowrank(features, q=2)[2]).argsort(0).argsort(0).T
        order = torch.argsort(first * 16 // vocab * vocab + second)
        return order.view(-1, math.gcd(16, vocab))

    def batch(self, size: int, length: int, g: torch.Generator) -> Tensor:
        """(size, length) training windows at random places."""
        windows = self.tokens["train"].unfold(0, length, 1)
        return windows[torch.randint(0, len(windows), (size,), generator=g)].long()

    def heldout(self, length: int, most: int) -> Tensor:
        """(n, length): at most `most` windows, evenly spread, that do not overlap."""
        windows = self.tokens["heldout"].unfold(0, length, length)
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
    """The encoded text in `folder`, made there where it is not yet: of a folder that `train corpus`
    wrote, of a text file or a folder of them; without `corpus` of Python's standard library.

    Raises:
        InvalidRequest: too small a vocabulary, or another one than that of the text in `folder`.
        InputFileError: too little text, no text, or damaged files.
    """
    if vocab_size <= 256:
        problem = f"a vocabulary of {vocab_size} has no token for every byte"
        raise InvalidRequest(problem, "use 257 or more; 4096 is usual")
    path = folder / "tokens.safetensors"
    data = _load(path) if path.is_file() else _encoded(_texts(folder, corpus), vocab_size)
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
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(iter(texts["train"]), vocab_size, 0, False, special_tokens=[END])
    tokenizer = Tokenizer.from_str(trained.to_str())
    end = tokenizer.token_to_id(END)
    tokens: dict[str, Tensor] = {}
    for split in _SPLITS:
        encoded = tokenizer.encode_batch(texts[split])
        ids = [i for document in encoded for i in (*document.ids, end)]
        tokens[split] = torch.tensor(ids, dtype=torch.int32)
    return LabData(tokenizer, tokens)


def _texts(folder: Path, corpus: Path | None) -> dict[str, list[str]]:
    """Python documents by split; of plain files each 20th piece of 4,000 characters is held out."""
    made = corpus or folder / "corpus"
    if not (made / "manifest.json").is_file():
        if corpus is not None:
            return _plain(corpus)
        options = BuildOptions(package_bytes=16 << 20, languages=("python",))
        build(made, Sources(stdlib=Sources.discover().stdlib), options=options)
    read = Corpus.open(made).documents
    return {split: [d.text for d in read(split) if d.language == "python"] for split in _SPLITS}


def _plain(corpus: Path) -> dict[str, list[str]]:
    files = sorted(p for p in corpus.rglob("*") if p.is_file()) if corpus.is_dir() else [corpus]
    try:
        whole = [path.read_text("utf-8") for path in files]
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"cannot read {corpus}: {error}", "give UTF-8 text") from None
    pieces = [text[i : i + 4000] for text in whole for i in range(0, len(text), 4000)]
    return {"heldout": pieces[::20], "train": [p for i, p in enumerate(pieces) if i % 20]}
