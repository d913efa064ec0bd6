"""Tokenizers of every kind: real ones, and ones trained here on the texts of the data folder.

``python benchmarks/tokenizer_zoo.py --data DATA --out FOLDER [--only NAME ...]`` writes ``FOLDER/NAME/tokenizer.json``
(and ``tokenizer.model`` where SentencePiece made it); benchmarks/tokenizer_parity.py runs it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTION + "?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTION + "?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
))  # fmt: skip


def split(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Return a pre-tokenizer that splits by each pattern in turn and writes bytes as GPT-2 does."""
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])


class Texts:
    """The lines of text that tokenizers are trained on."""

    def __init__(self, data: Path) -> None:
        self.data = data

    @cache  # noqa: B019  (one object in the process)
    def lines(self) -> list[str]:
        """Return whole lines of stories, questions and word problems, short ones left out."""
        stories = (self.data / "tinystories-text/tinystories_sample.txt").read_text(encoding="utf-8").splitlines()
        with (self.data / "banking77/train.csv").open(encoding="utf-8", newline="") as file:
            questions = [row[0] for row in csv.reader(file)]
        problems = []
        for line in (self.data / "gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines():
            problems += [text for text in json.loads(line).values() if isinstance(text, str)]
        passages = _strings(json.loads((self.data / "xquad-en/xquad.en.json").read_text(encoding="utf-8")))
        found = [*stories, *questions, *problems, *passages]
        return [line for text in found for line in text.splitlines() if len(line) > 20]

    @cache  # noqa: B019
    def many_words(self) -> list[str]:
        """Return the lines and every number and pair of words of them: enough for a vocabulary of tens of thousands."""
        words = sorted({word for line in self.lines() for word in line.split()})
        return [*self.lines(), *(f"{a}{b}" for a, b in zip(words, reversed(words), strict=True)), *words]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


Build = Callable[[Texts, Path], None]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def real(name: str) -> Build:
    """Take a tokenizer of the data folder; GPT-2's is put together from its vocabulary and merges."""

    def build(texts: Texts, folder: Path) -> None:
        source = texts.data / name
        for file in ("tokenizer_config.json", "tokenizer.model"):
            if (source / file).is_file() and name != "tok-llama3":
                shutil.copyfile(source / file, folder / file)
        for file in ("tokenizer.json", "tokenizer.built.json"):
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / "tokenizer.json")
                return
        model = models.BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt"))
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer, tokenizer.decoder = GPT2, decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|endoftext|>"])
        tokenizer.save(str(folder / "tokenizer.json"))

    return build


def byte_level(
    splitter: pre_tokenizers.PreTokenizer,
    size: int,
    *,
    ignore_merges: bool = False,
    normalizer: normalizers.Normalizer | None = None,
    added: tuple[str, ...] = (),
    bos: bool = False,
    many: bool = False,
) -> Build:
    """Train byte-level BPE. ``ignore_merges`` also takes away some merges, or nothing would show it."""

    def build(texts: Texts, folder: Path) -> None:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts.many_words() if many else texts.lines(), trainer)
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
        if bos:
            start = SPECIALS[1]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
            )
        described = json.loads(tokenizer.to_str())
        if ignore_merges:
            described["model"]["ignore_merges"] = True
            merges = described["model"]["merges"]
            described["model"]["merges"] = [one for at, one in enumerate(merges) if at % 50 or len("".join(one)) < 4]
        (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")

    return build


def sentencepiece(kind: str, size: int, convert: str, *, bos: str | None = None, **options: Any) -> Build:
    """Train with SentencePiece and turn it into a tokenizer.json in the way that ``convert`` names."""

    def build(texts: Texts, folder: Path) -> None:
        import sentencepiece as library

        settings: dict[str, Any] = {"character_coverage": 1.0, "num_threads": 1, **options}
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(texts.lines()), model_prefix=str(folder / "tokenizer"), vocab_size=size,
            model_type=kind, minloglevel=2, hard_vocab_limit=False, **settings,
        )  # fmt: skip
        (folder / "tokenizer.vocab").unlink()
        CONVERSIONS[convert](folder)
        if bos is not None:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
            )
            tokenizer.save(str(folder / "tokenizer.json"))

    return build


def _by_transformers(class_name: str) -> Callable[[Path], None]:
    """Open the folder's tokenizer.model with a class of transformers 5, and save it."""

    def convert(folder: Path) -> None:
        import transformers

        tokenizer = getattr(transformers, class_name)(
            **getattr(transformers, class_name).convert_to_native_format(vocab_file=str(folder / "tokenizer.model"))
        )
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    return convert


def _as_transformers_4(folder: Path) -> None:
    """Write what transformers 4 wrote for a model that it had no converter of its own for."""
    proto, vocab = _proto(folder)
    byte_fallback = proto.trainer_spec.byte_fallback
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, proto.trainer_spec.unk_id, byte_fallback))
    chain = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "\u2581")]
    if proto.normalizer_spec.precompiled_charsmap:
        chain.insert(0, normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    tokenizer.normalizer = normalizers.Sequence(chain)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    _add_symbols(tokenizer, proto)
    tokenizer.save(str(folder / "tokenizer.json"))


def _as_llama_4(folder: Path) -> None:
    """Write what transformers 4 wrote for Llama 2: the prefix space in the normalizer."""
    _by_transformers("LlamaTokenizer")(folder)
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    prefix = {"type": "Prepend", "prepend": "\u2581"}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    described["normalizer"] = {"type": "Sequence", "normalizers": [prefix, space]}
    described["pre_tokenizer"] = None
    path.write_text(json.dumps(described), encoding="utf-8")


def _generic(folder: Path) -> None:
    """Write what transformers 5 builds for a model that it has no class for."""
    from transformers.convert_slow_tokenizer import SentencePieceExtractor, SpmConverter

    extractor = SentencePieceExtractor(str(folder / "tokenizer.model"))
    found = extractor.extract(None)
    tokenizer = SpmConverter.build_tokenizer_from_spm_proto(extractor.proto, found["vocab"], found.get("merges"))
    _add_symbols(tokenizer, extractor.proto)
    tokenizer.save(str(folder / "tokenizer.json"))


def _proto(folder: Path) -> tuple[Any, list[tuple[str, float]]]:
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    return proto, [(piece.piece, piece.score) for piece in proto.pieces]


def _add_symbols(tokenizer: tokenizers.Tokenizer, proto: Any) -> None:
    for piece in proto.pieces:
        if piece.type in (2, 3, 4):
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type != 4)])


CONVERSIONS: dict[str, Callable[[Path], None]] = {
    "llama-5": _by_transformers("LlamaTokenizer"),
    "gemma-5": _by_transformers("GemmaTokenizer"),
    "t5-5": _by_transformers("T5Tokenizer"),
    "xglm-5": _by_transformers("XGLMTokenizer"),
    "llama-4": _as_llama_4,
    "unigram-4": _as_transformers_4,
    "generic-5": _generic,
}


def huggingface(model: str) -> Build:
    """Train with the library tokenizers alone: Unigram with its normalizers, or BPE over characters."""

    def build(texts: Texts, folder: Path) -> None:
        trainer: trainers.Trainer
        if model == "unigram":
            tokenizer = tokenizers.Tokenizer(models.Unigram())
            chain = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
            tokenizer.normalizer = normalizers.Sequence([*chain, normalizers.Lowercase()])
            tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
            trainer = trainers.UnigramTrainer(
                vocab_size=3000, special_tokens=["<unk>", *SPECIALS], unk_token="<unk>", show_progress=False
            )
        else:
            tokenizer = tokenizers.Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
            tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
            trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=SPECIALS, show_progress=False)
        tokenizer.train_from_iterator(texts.lines(), trainer)
        tokenizer.save(str(folder / "tokenizer.json"))

    return build


SYMBOLS = {"user_defined_symbols": ["[INST]", "[/INST]", "<sep>", "\u2581\u2581", "\u2581\u2581\u2581\u2581"]}
IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
NO_PREFIX = {"add_dummy_prefix": False}

ZOO: dict[str, Build] = {
    "tok-qwen2": real("tok-qwen2"),
    "tok-llama3": real("tok-llama3"),
    "tok-gpt2": real("tok-gpt2"),
    "llama2-spm": real("llama2-spm"),
    "stories260K": real("stories260K-hf"),
    "bytes-gpt2-300": byte_level(GPT2, 300),
    "bytes-gpt2-8k-added": byte_level(GPT2, 8000, added=("<tool>", "</tool>", "    ", "\n\n", "USER:"), bos=True),
    "bytes-gpt2-large": byte_level(GPT2, 60_000, many=True),
    "bytes-llama3-16k-ignore-merges": byte_level(split(LLAMA3), 16_000, ignore_merges=True, bos=True),
    "bytes-llama3-4k": byte_level(split(LLAMA3), 4000),
    "bytes-qwen2-8k-nfc": byte_level(split(QWEN2), 8000, normalizer=normalizers.NFC()),
    "bytes-smollm-6k": byte_level(DIGITS, 6000),
    "bytes-deepseek3-8k": byte_level(split(*DEEPSEEK3), 8000),
    "bytes-o200k-8k": byte_level(split(O200K), 8000),
    "bytes-prefix-space-4k": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), 4000),
    "spm-bpe-bytes-llama4-2k": sentencepiece("bpe", 2000, "llama-4", bos="<s>", byte_fallback=True, **IDENTITY),
    "spm-bpe-bytes-llama5-2k": sentencepiece("bpe", 2000, "llama-5", bos="<s>", byte_fallback=True, **IDENTITY),
    "spm-bpe-bytes-generic-4k": sentencepiece("bpe", 4000, "generic-5", byte_fallback=True, **IDENTITY, **NO_PREFIX),
    "spm-bpe-bytes-gemma-6k": sentencepiece(
        "bpe",
        6000,
        "gemma-5",
        bos="<bos>",
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        bos_piece="<bos>",
        eos_piece="<eos>",
        **IDENTITY,
        **NO_PREFIX,
        **SYMBOLS,
    ),
    "spm-bpe-chars-2k": sentencepiece("bpe", 2000, "generic-5", **IDENTITY, **NO_PREFIX),
    "hf-bpe-chars-4k": huggingface("bpe"),
    "spm-unigram-t5-4k": sentencepiece("unigram", 4000, "t5-5", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "spm-unigram-xglm-2k": sentencepiece("unigram", 2000, "xglm-5", bos_id=0, pad_id=1, eos_id=2, unk_id=3),
    "spm-unigram-nmt-8k": sentencepiece("unigram", 8000, "unigram-4"),
    "spm-unigram-bytes-nmt-2k": sentencepiece("unigram", 2000, "unigram-4", byte_fallback=True),
    "spm-unigram-bytes-6k": sentencepiece("unigram", 6000, "generic-5", byte_fallback=True, **IDENTITY, **NO_PREFIX),
    "spm-unigram-1k": sentencepiece("unigram", 1000, "generic-5", **IDENTITY, **NO_PREFIX),
    "spm-unigram-symbols-3k": sentencepiece("unigram", 3000, "unigram-4", **SYMBOLS),
    "hf-unigram-3k": huggingface("unigram"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(ZOO), nargs="*")
    options = parser.parse_args()
    texts = Texts(options.data)
    for name in options.only or ZOO:
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        ZOO[name](texts, folder)
        described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        print(f"{name}: {len(described['model']['vocab'])} tokens", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
