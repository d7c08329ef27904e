"""The text that all families learn: one corpus, one vocabulary, windows of equal length."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from blockdiff.errors import InputFileError, InvalidRequest
from blockdiff.train.corpus import BuildOptions, Corpus, build
from blockdiff.train.sources import Sources

END = "<end>"
"""Between two documents; it stands for no byte."""
_BYTES = 256
_TOKENS, _VOCABULARY = "tokens.safetensors", "vocabulary.json"


@dataclass(frozen=True, eq=False)
class LabData:
    """Encoded text, immutable.

    Attributes:
        tokens: of each split, (n,) int32, documents one after the other.
        bytes_of: (vocab,) bytes of text that each token stands for.
    """

    tokenizer: Tokenizer
    tokens: dict[str, Tensor]
    bytes_of: Tensor

    @property
    def vocab_size(self) -> int:
        return len(self.bytes_of)

    @property
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

    def shown(self, tokens: Tensor) -> str:
        """For people, masks as blocks; some text has pieces of characters."""
        marks = [self.text(part) if len(part) else "" for part in _between(tokens, self.vocab_size)]
        return "\u2591".join(marks)

    def text(self, tokens: Tensor) -> str:
        return str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=False))


def _between(tokens: Tensor, mask_id: int) -> list[Tensor]:
    """The stretches of tokens between masks."""
    places = (tokens == mask_id).nonzero().flatten().tolist()
    ends = zip([-1, *places], [*places, len(tokens)], strict=True)
    return [tokens[a + 1 : b] for a, b in ends]


def open_data(folder: Path, vocab_size: int, length: int, corpus: Path | None) -> LabData:
    """The encoded text in `folder`, made there from a corpus where it is not yet.

    Args:
        corpus: folder that `train corpus` wrote, a text file, or a folder of text files; None:
            what is in `folder`, or Python's standard library.

    Raises:
        InvalidRequest: too small a vocabulary, or another one than that of the text in `folder`.
        InputFileError: too little text, no text, or damaged files.
    """
    if vocab_size < _BYTES + 1:
        raise InvalidRequest(
            f"a vocabulary of {vocab_size} has no token for every byte",
            f"use {_BYTES + 1} or more; 4096 is usual",
        )
    if not (folder / _TOKENS).is_file():
        _encode(folder, vocab_size, length, corpus)
    data = _load(folder)
    if data.vocab_size != vocab_size:
        raise InvalidRequest(
            f"the text in {folder} has a vocabulary of {data.vocab_size}, not {vocab_size}",
            "use the same preset, or another folder",
        )
    _check_enough(data.tokens, length)
    return data


def _load(folder: Path) -> LabData:
    try:
        tokens = load_file(folder / _TOKENS)
        tokenizer = Tokenizer.from_file(str(folder / _VOCABULARY))
        parts = {split: tokens[split] for split in ("train", "heldout")}
    except Exception as error:  # tokenizers raises bare ones
        if isinstance(error, MemoryError):
            raise
        raise InputFileError(
            f"the encoded text in {folder} is damaged: {error}",
            f"remove {folder / _TOKENS} to make it anew",
        ) from None
    return LabData(tokenizer, parts, _bytes_of(tokenizer))


def _encode(folder: Path, vocab_size: int, length: int, corpus: Path | None) -> None:
    """Train the vocabulary on the training split, encode both; tokens are written last."""
    texts = _texts(folder, corpus)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts["train"], trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise InputFileError(
            f"there is too little text for {vocab_size} tokens:"
            f" it gives {tokenizer.get_vocab_size()}",
            "give more text by --corpus",
        )
    tokens = {split: _joined(tokenizer, parts) for split, parts in texts.items()}
    _check_enough(tokens, length)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / _VOCABULARY))
    partial = folder / f"{_TOKENS}.partial"
    save_file(tokens, partial)
    os.replace(partial, folder / _TOKENS)


def _texts(folder: Path, corpus: Path | None) -> dict[str, list[str]]:
    """Python documents by split; of plain files every 20th is held out."""
    if corpus is not None and not (corpus / "manifest.json").is_file():
        files = sorted(p for p in corpus.rglob("*") if p.is_file()) if corpus.is_dir() else [corpus]
        texts = list(_chunks(files))
        held = texts[::20]
        return {"train": [t for i, t in enumerate(texts) if i % 20], "heldout": held}
    if corpus is None:
        corpus = folder / "corpus"
        if not (corpus / "manifest.json").is_file():
            options = BuildOptions(package_bytes=16 << 20, languages=("python",))
            build(corpus, Sources(stdlib=Sources.discover().stdlib), options=options)
    opened = Corpus.open(corpus)
    return {
        split: [d.text for d in opened.documents(split) if d.language == "python"]
        for split in ("train", "heldout")
    }


def _chunks(files: Iterable[Path]) -> Iterator[str]:
    """Texts of about 4,000 characters, cut between lines. Raises InputFileError."""
    for path in files:
        try:
            lines = path.read_text("utf-8").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise InputFileError(f"cannot read {path}: {error}", "give UTF-8 text files") from None
        held = ""
        for line in lines:
            held += line
            if len(held) > 4000:
                yield held
                held = ""
        if held:
            yield held


def _joined(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    end = tokenizer.token_to_id(END)
    ids = [i for encoded in tokenizer.encode_batch(texts) for i in (*encoded.ids, end)]
    return torch.tensor(ids, dtype=torch.int32)


def _check_enough(tokens: dict[str, Tensor], length: int) -> None:
    for split, ids in tokens.items():
        if len(ids) < 4 * length:
            raise InputFileError(
                f"too little text: {len(ids)} {split} tokens, windows have {length}",
                "give more text by --corpus",
            )


def _bytes_of(tokenizer: Tokenizer) -> Tensor:
    """A byte-level token has one character for each byte."""
    names = (tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size()))
    return torch.tensor([0 if name == END else len(name or "") for name in names])


def near_groups(tokens: Tensor, vocab_size: int) -> Tensor:
    """(groups, size) ids, each once: tokens that stand between alike neighbours, in equal groups.

    How often each stands before and behind the 256 commonest tokens are its features; sets split at
    the median of their direction of most variance until groups have 16, or whatever smaller power
    of two divides the vocabulary.
    """
    size = math.gcd(16, vocab_size)
    common = torch.bincount(tokens, minlength=vocab_size).topk(min(256, vocab_size)).indices
    column = torch.full((vocab_size,), -1)
    column[common] = torch.arange(len(common))
    counts = torch.zeros(vocab_size, 2 * len(common))
    before, after = tokens[:-1].long(), tokens[1:].long()
    for here, there, shift in ((after, before, 0), (before, after, len(common))):
        seen = column[there] >= 0
        index = (here[seen], column[there[seen]] + shift)
        counts.index_put_(index, torch.ones(len(index[0])), accumulate=True)
    features = torch.nn.functional.normalize(counts.sqrt(), dim=1)
    groups = [torch.arange(vocab_size)]
    while len(groups[0]) > size:
        groups = [half for group in groups for half in _halves(features, group)]
    return torch.cat(groups).view(-1, size)


def _halves(features: Tensor, group: Tensor) -> list[Tensor]:
    centred = features[group] - features[group].mean(0)
    direction = torch.ones(centred.shape[1])
    for _ in range(8):  # power iteration
        direction = torch.nn.functional.normalize(centred.T @ (centred @ direction), dim=0)
    return list(group[(centred @ direction).argsort()].chunk(2))
