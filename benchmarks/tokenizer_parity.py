"""Tokenizers of every kind in our GGUF files, and in those of llama.cpp's own converter: do they give the same ids?

    python benchmarks/tokenizer_parity.py --data DATA --converter .../llama.cpp/convert_hf_to_gguf.py

For each tokenizer of benchmarks/tokenizer_zoo.py a checkpoint of a tiny random Llama is written and exported by us and
by the converter (which lies in llama-cpp-python's source distribution and wants sentencepiece and torch). Random texts
are then tokenised by the original (tokenizer.json, run by the library tokenizers) and by llama.cpp on each file, with
and without the special tokens that are added around a text.

A text counts for the result unless it is of a kind that llama.cpp can't do, as our export has noted (the notes are
printed with ``--notes``); how many such texts there were, and how many of them differ, is printed beside it. Where
the tokenizer composes its input (NFC), texts are composed first. Exit status 1 when a text that counts differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tokenizer_zoo import ZOO, Texts

from edgestill.artifact import Checkpoint
from edgestill.errors import EdgestillError
from edgestill.export.fuzzed_texts import TextSource, fuzzed_texts
from edgestill.export.gguf import export_gguf
from edgestill.export.gguf_pretokenizer import choose_tokenizer, mismatches
from edgestill.export.gguf_tokenizer import read_tokenizer
from edgestill.export.llama_vocabulary import open_vocabulary
from edgestill.export.source_tokenizer import SourceTokenizer, load_tokenizer

BIG = ("tok-qwen2", "tok-llama3", "tok-gpt2", "llama2-spm")
MOST_TOUCHED = 5
"""Texts are drawn until enough of them count, or so many times as many were drawn."""

SENTENCEPIECE_TEXTS = 1000


def write_model(folder: Path, rows: int) -> None:
    """Write a random Llama of one layer, and the configuration of a tokenizer that names its special tokens."""
    from safetensors.numpy import save_file

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": rows,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "torch_dtype": "float16",
        "bos_token_id": None, "eos_token_id": None, "hidden_act": "silu",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (32, 32), "self_attn.v_proj": (32, 32)}
    shapes |= {"self_attn.o_proj": (32, 32), "mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32)}
    shapes |= {"mlp.down_proj": (32, 64), "input_layernorm": (32,), "post_attention_layernorm": (32,)}
    names = {f"model.layers.0.{name}.weight": shape for name, shape in shapes.items()}
    names |= {"model.embed_tokens.weight": (rows, 32), "model.norm.weight": (32,)}
    tensors = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in names.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    if not (folder / "tokenizer_config.json").is_file():
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(folder)))


def tokenizer_config(folder: Path) -> dict[str, object]:
    """Return what transformers would save beside a tokenizer.json: special tokens, and what goes around a text."""
    original = load_tokenizer(Checkpoint(folder))
    added = {one["content"]: one["id"] for one in original.described["added_tokens"]}
    plain, full = original.encode("a"), original.encode("a", add_special=True)
    first = next((text for text in ("<|im_start|>", "<s>", "<bos>") if text in added), None)
    end = next((text for text in ("<|im_end|>", "</s>", "<eos>", "<|endoftext|>") if text in added), None)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": first,
        "eos_token": end,
        "unk_token": "<unk>" if "<unk>" in added else None,
        "add_bos_token": full[: -len(plain)] != [] and full[0] != plain[0],
        "add_eos_token": full[-1] != plain[-1],
    }


def source_of(original: SourceTokenizer, texts: Texts) -> TextSource:
    """Return what random texts for a tokenizer are made of."""
    numbers = sorted(original.encoder.get_vocab().values())
    words = original.spellings(numbers[:: len(numbers) // 8192 + 1])
    specials = [one["content"] for one in original.described["added_tokens"]][:64]
    return TextSource([word for word in words if word and "\ufffd" not in word], specials, texts.lines())


def compare(folder: Path, gguf: Path, data: Path, wanted: int) -> dict[str, Any]:
    """Return how many texts were compared and differ, those apart that a limit of our export touches."""
    checkpoint = Checkpoint(folder)
    original = load_tokenizer(checkpoint)
    rows = int(str(checkpoint.config()["vocab_size"]))
    chosen = choose_tokenizer(original, read_tokenizer(checkpoint, original, rows), "llama", folder)
    drawn = itertools.islice(fuzzed_texts(1, source_of(original, Texts(data))), wanted * MOST_TOUCHED)
    counts = {"texts": 0, "differ": 0, "touched": 0, "touched_differ": 0}
    shown: list[str] = []
    with open_vocabulary(gguf) as vocabulary:
        for text in drawn:
            kind = "touched" if any(limit.touches(text) for limit in chosen.limits) else "texts"
            if not text:
                continue
            found = mismatches(original, vocabulary, [text])
            counts[kind] += 1
            if found:
                counts["touched_differ" if kind == "touched" else "differ"] += 1
                if kind == "texts" and len(shown) < 5:
                    shown.append(str(found[0]))
            if counts["texts"] == wanted:
                break
    return {**counts, "examples": shown, "notes": chosen.tokenizer.notes, "model": chosen.tokenizer.model,
            "pre": chosen.tokenizer.pre}  # fmt: skip


def beside_sentencepiece(folder: Path, data: Path) -> int | None:
    """Return how many of 1,000 texts SentencePiece itself tokenises otherwise than tokenizer.json, for information."""
    if not (folder / "tokenizer.model").is_file():
        return None
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    original = load_tokenizer(Checkpoint(folder))
    texts = itertools.islice(fuzzed_texts(2, source_of(original, Texts(data))), SENTENCEPIECE_TEXTS)
    return sum(library.encode(text) != original.encode(text) for text in texts)


def child(options: argparse.Namespace) -> int:
    """Do one step for one tokenizer in this process, and print its result as JSON."""
    folder = options.folder
    result: dict[str, Any] = {}
    try:
        if options.child == "build":
            ZOO[options.only[0]](Texts(options.data), folder)
            original = load_tokenizer(Checkpoint(folder))
            rows = max(original.encoder.get_vocab().values()) + 1
            write_model(folder, rows)
            result = {"rows": rows, "sentencepiece": beside_sentencepiece(folder, options.data)}
        elif options.child == "ours":
            path = export_gguf(Checkpoint(folder), "f16", folder / "ours").model_path
            result = compare(folder, path, options.data, options.strings)
        else:
            result = compare(folder, folder / "theirs.gguf", options.data, options.strings)
    except EdgestillError as error:
        result = {"refused": str(error).replace(f"{folder}/", "")}
    print(json.dumps(result))
    return 0


def in_child(step: str, name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one step in a process of its own, which llama.cpp may end."""
    strings = options.strings * (10 if name in BIG and step == "ours" and not options.equal else 1)
    command = [sys.executable, __file__, "--child", step, "--only", name, "--folder", folder, "--data", options.data]
    done = subprocess.run(
        [*map(str, command), "--strings", str(strings)], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [""]
        return {"crashed": f"ended with status {done.returncode}: {said[-1][:200]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def converted(folder: Path, converter: Path) -> str | None:
    """Run llama.cpp's converter on the folder and return why it refuses, None when it doesn't."""
    command = [sys.executable, converter, folder, "--outfile", folder / "theirs.gguf", "--outtype", "f16"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no reason"])[-1][:160] if done.returncode else None


def told(result: dict[str, Any]) -> str:
    """Return a result in a few words."""
    if "refused" in result:
        return f"refused ({result['refused'][:160]})"
    if "crashed" in result:
        return f"crashed ({result['crashed']})"
    beyond = f" ({result['touched_differ']} of {result['touched']} that its notes exclude)" if result["touched"] else ""
    return f"{result['differ']} of {result['texts']} differ{beyond}"


def exact(result: dict[str, Any]) -> bool:
    """Whether texts were compared and none of those that count differ."""
    return bool(result.get("texts")) and result["differ"] == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py; without it, only ours")
    parser.add_argument(
        "--strings", type=int, default=10_000, help="texts a tokenizer; ten times as many for real ones"
    )
    parser.add_argument("--equal", action="store_true", help="as many texts for the real ones as for the others")
    parser.add_argument("--only", choices=sorted(ZOO), nargs="*")
    parser.add_argument("--notes", action="store_true", help="print what our export noted of each tokenizer")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=("build", "ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    results: dict[str, dict[str, Any]] = {}
    for name in options.only or ZOO:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            built = in_child("build", name, folder, options)
            if "rows" not in built:
                print(f"{name}: could not be built: {built}", file=sys.stderr)
                return 2
            ours = in_child("ours", name, folder, options)
            theirs: dict[str, Any] = {}
            if options.converter is not None:
                refusal = converted(folder, options.converter)
                theirs = {"refused": refusal} if refusal else in_child("theirs", name, folder, options)
        results[name] = {
            "tokens": built["rows"],
            "ours": ours,
            "theirs": theirs,
            "sentencepiece": built["sentencepiece"],
        }
        way = f" [{ours['model']}{'/' + ours['pre'] if ours['model'] == 'gpt2' else ''}]" if "model" in ours else ""
        line = f"{name}: {built['rows']} tokens{way}; ours {told(ours)}"
        line += f"; theirs {told(theirs)}" if theirs else ""
        if built["sentencepiece"] is not None:
            line += f"; tokenizer.json beside SentencePiece: {built['sentencepiece']} of {SENTENCEPIECE_TEXTS} differ"
        if not options.json:
            print(f"{line} ({time.monotonic() - started:.0f} s)", flush=True)
            shown = ours.get("examples", []) + (list(ours.get("notes", ())) if options.notes else [])
            print("".join(f"    {one}\n" for one in shown), end="", flush=True)
    total = len(results)
    summary = {
        "tokenizers": total,
        "ours": sum(exact(one["ours"]) for one in results.values()),
        "theirs": sum(exact(one["theirs"]) for one in results.values()) if options.converter else None,
    }
    if options.json:
        print(json.dumps({"schema": "edgestill.benchmark.tokenizer_parity/1", **summary, "results": results}))
    else:
        print(f"ours: {summary['ours']} of {total} tokenizers with 0 differences", end="")
        print(f"; convert_hf_to_gguf.py: {summary['theirs']} of {total}" if options.converter else "")
    return 1 if any(one["ours"].get("differ") or "crashed" in one["ours"] for one in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
