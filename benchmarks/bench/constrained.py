"""Is every constrained answer valid? Generations under many schemas on both engines, judged by ``jsonschema``.

    python benchmarks/bench/constrained.py [--count 1000] [--data ../shared/data] [--json]

``--count`` answers each: on llama.cpp by its own grammar, on llama.cpp by llguidance (schemas that its grammar can't
hold), on onnxruntime by llguidance. The models want to write anything but JSON: a real one for stories, a random one,
and one in ten answers by a random one with a real vocabulary of 151,646 (the first and the last where ``--data`` has
them). Half of the schemas are drawn at random, each answer has its own seed; greedy, and temperatures 1.3 and 2 with
and without top-k and top-p. What is cut by length is counted apart. Then the cost: the mean CPU time of a token with
and without a constraint. Exit status 1 unless every answer is whole and valid.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
from constrained_schemas import FOREIGN, PLAIN, Schema, random_schema

from edgestill.artifact import Checkpoint
from edgestill.errors import EdgestillError
from edgestill.export import export_checkpoint
from edgestill.runtime import GenerationOptions, Sampling, Session
from edgestill.runtime.constraint import JsonSchema

NEW_TOKENS = 480
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.3},
    {"temperature": 2.0},
    {"temperature": 1.3, "top_k": 40},
    {"temperature": 2.0, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 100, "min_p": 0.01, "repetition_penalty": 1.1},
)
FORMATS = jsonschema.FormatChecker(["date", "ipv4", "uuid"])


@dataclass
class Tally:
    """What came of the answers on one engine by one backend."""

    engine: str
    enforced_by: str
    total: int = 0
    valid: int = 0
    cut: int = 0
    invalid: int = 0
    tokens: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass
class Cost:
    """Mean CPU microseconds of a token on one thread, plain and constrained, whatever else the machine does."""

    engine: str
    vocabulary: int
    sampling: str
    plain_us: float
    constrained_us: float


def random_checkpoint(folder: Path, tokenizer: Path | None) -> Path:
    """Write a random tiny model with a byte-level vocabulary of its own, or with a real tokenizer."""
    import tokenizers
    import torch
    import transformers

    folder.mkdir(parents=True)
    if tokenizer is None:
        own = tokenizers.Tokenizer(tokenizers.models.BPE())
        own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        own.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=600, special_tokens=["<|end|>", "<|user|>"], initial_alphabet=alphabet, show_progress=False
        )
        texts = [json.dumps(schema, ensure_ascii=False) for schema in PLAIN] + ["naïve café — 東京 \U0001f600"] * 4
        own.train_from_iterator(texts, trainer)
        size, end = own.get_vocab_size(), "<|end|>"
        own.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": end, "tokenizer_class": "PreTrainedTokenizerFast"})
        )
    else:
        shutil.copy(tokenizer / "tokenizer.built.json", folder / "tokenizer.json")
        shutil.copy(tokenizer / "tokenizer_config.json", folder)
        own = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        size, end = own.get_vocab_size() + 290, "<|endoftext|>"  # padded, as real models are
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        vocab_size=size,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=own.token_to_id(end),
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def models(data: Path, out: Path) -> list[dict[str, Path]]:
    """Return the files of each model by engine: small ones first, the one of a big vocabulary last."""
    folders = [data / "stories260K-hf"] if (data / "stories260K-hf").is_dir() else []
    folders.append(random_checkpoint(out / "random", None))
    if (data / "tok-qwen2").is_dir():
        folders.append(random_checkpoint(out / "big", data / "tok-qwen2"))
    return [
        {
            "llama.cpp": export_checkpoint(
                Checkpoint.open(folder), "gguf", "f32", out / f"{folder.name}-files"
            ).model_path,
            "onnxruntime": export_checkpoint(
                Checkpoint.open(folder), "onnx", "fp32", out / f"{folder.name}-files"
            ).model_path,
        }
        for folder in folders
    ]


def cases(count: int, schemas: list[Schema], drawn: bool, seed: int) -> Iterator[tuple[Schema, Sampling]]:
    """Yield ``count`` schemas with a sampling: the given ones in turn, every second one drawn at random."""
    draw = random.Random(seed)
    for number in range(count):
        schema = random_schema(draw) if drawn and number % 2 else schemas[number // (1 + drawn) % len(schemas)]
        settings = SAMPLINGS[draw.randrange(len(SAMPLINGS))]
        yield schema, Sampling(**settings, seed=number)


def judge(tally: Tally, session: Session, schema: Schema, sampling: Sampling) -> None:
    """Generate one answer and count what it is."""
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, sampling=sampling, constraint=JsonSchema(schema))
    tally.total += 1
    begun = time.perf_counter()
    try:
        answer = session.generate([1, 2, 3], options)
    except EdgestillError as error:
        tally.invalid += 1
        tally.faults.append(f"{json.dumps(schema)}: {error}")
        return
    tally.seconds += time.perf_counter() - begun
    tally.tokens += answer.statistics.new_tokens
    assert answer.constraint is not None
    if answer.finish_reason == "length":
        tally.cut += 1
        tally.faults.append(f"{json.dumps(schema)}: cut: {answer.text!r}")
        return
    try:
        jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(answer.text))
        if not answer.constraint.complete or answer.constraint.enforced_by != tally.enforced_by:
            raise ValueError(f"{answer.constraint}")
    except (ValueError, jsonschema.ValidationError) as error:
        tally.invalid += 1
        tally.faults.append(f"{json.dumps(schema)}: {answer.text!r}: {str(error).splitlines()[0]}")
        return
    tally.valid += 1


def cost(session: Session) -> Iterator[Cost]:
    """Yield the mean time of a token with and without a constraint."""
    names = [f"p{number}" for number in range(6)]
    text = {"type": "string", "minLength": 12, "maxLength": 24}
    schema = {"type": "object", "properties": dict.fromkeys(names, text), "required": names}
    for name, settings in (("greedy", {}), ("temperature 1.3, top-k 40", SAMPLINGS[3])):
        spent, tokens = {False: 0.0, True: 0.0}, 0
        for seed in range(6):
            sampling = Sampling(**settings, seed=seed)
            begun = time.process_time()
            answer = session.generate([1, 2, 3], GenerationOptions(NEW_TOKENS, sampling, constraint=JsonSchema(schema)))
            between = time.process_time()
            count = answer.statistics.new_tokens
            session.generate([1, 2, 3], GenerationOptions(count, sampling, ignore_eos=True))
            if seed:  # the first warms up
                spent[True] += between - begun
                spent[False] += time.process_time() - between
                tokens += count
        means = {key: 1e6 * seconds / tokens for key, seconds in spent.items()}
        yield Cost(session.engine.name, session.engine.vocab_size, name, means[False], means[True])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = (
        ("llama.cpp", "llama.cpp", PLAIN, True),
        ("llama.cpp", "llguidance", FOREIGN, False),
        ("onnxruntime", "llguidance", [*PLAIN, *FOREIGN], True),
    )
    tallies, costs = [], []
    with tempfile.TemporaryDirectory(prefix="edgestill-constrained-") as folder:
        files = models(options.data, Path(folder))
        for engine, backend, schemas, drawn in runs:
            tally = Tally(engine, backend)
            tallies.append(tally)
            big = options.count // 10 if len(files) > 1 and options.data.joinpath("tok-qwen2").is_dir() else 0
            small = files[:-1] if big else files
            shares = [(options.count - big) // len(small)] * len(small) + ([big] if big else [])
            shares[0] += options.count - sum(shares)
            for number, (model, share) in enumerate(zip(files, shares, strict=True)):
                with Session.open(model[engine], threads=1) as session:
                    for schema, sampling in cases(share, schemas, drawn, number):
                        judge(tally, session, schema, sampling)
                    if (engine, backend) in (("llama.cpp", "llama.cpp"), ("onnxruntime", "llguidance")):
                        costs += list(cost(session))
            if not options.json:
                print(
                    f"{engine} by {backend}: {tally.valid} of {tally.total} valid, {tally.cut} cut by length, "
                    f"{tally.invalid} invalid ({tally.tokens} tokens, {tally.seconds:.0f} s)",
                    flush=True,
                )
                for fault in tally.faults[:10]:
                    print(f"  {fault}")
    good = all(tally.valid == tally.total for tally in tallies)
    if options.json:
        figures = {"answers": [asdict(one) for one in tallies], "cost": [asdict(one) for one in costs]}
        print(json.dumps({**figures, "all_valid": good}))
    else:
        for one in costs:
            print(
                f"{one.engine}, vocabulary {one.vocabulary}, {one.sampling}: {one.plain_us:.0f} us of CPU a token, "
                f"{one.constrained_us:.0f} constrained ({one.constrained_us - one.plain_us:+.0f})"
            )
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
