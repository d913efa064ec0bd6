"""Our own builds' tables of a vocabulary and of Unicode: they say what llama.cpp's own say, in less memory."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("gguf")

from gguf import GGUFWriter, TokenType

from edgestill.artifact import Checkpoint
from edgestill.export import export_checkpoint
from edgestill.export.parity_texts import hard_texts
from edgestill.runtime.native.build import HERE, _installed_libraries
from edgestill.runtime.native.llama_units import core_units, version_headers
from edgestill.runtime.native.source import llama_source
from tests.runtime.native.c_memory import RESIDENT

# Not with benchmarks/native/sanitized.py's sanitizers, which would be the compiler's too, and change what memory is.
PLAIN = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
CHECKED = ["c++", "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
CHECKED += ["-fno-sanitize-recover=all", f"-I{HERE / 'src'}"]

# Random insertions, of keys with every byte and of lengths from none on, beside std::unordered_map.
MAPS = r"""
#include <cstdio>
#include <random>
#include <unordered_map>
#include "compact_map.h"

using Pair = std::pair<std::string, std::string>;
struct PairHash {
    size_t operator()(const Pair &key) const { return std::hash<std::string>{}(key.first + "\1" + key.second); }
};
static std::mt19937 draw(7);

static std::string text() {
    std::string made(draw() % 5 == 0 ? draw() % 40 : draw() % 3, ' ');
    for (char &byte : made) byte = static_cast<char>(draw() % 9 == 0 ? draw() % 256 : "ab\0 "[draw() % 4]);
    return made;
}
static void fill(std::string &key) { key = text(); }
static void fill(Pair &key) { key = {text(), text()}; }

template <class Key, class Map>
static int compare(Map &wanted) {
    edgestill::CompactMap<Key, int> ours;
    std::vector<Key> order;
    if (ours.begin() != ours.end() || ours.count(Key()) != 0 || ours.find(Key()) != ours.end()) return 1;
    for (int step = 0; step < 150000; ++step) {
        Key key;
        fill(key);
        if ((ours.find(key) != ours.end()) != (wanted.find(key) != wanted.end())) return 2;
        if (ours.count(key) != wanted.count(key)) return 3;
        if (wanted.count(key) == 0) order.push_back(key);
        if (draw() % 2) {
            ours.emplace(key, step);
            wanted.emplace(key, step);
        } else {
            ours[key] = step;
            wanted[key] = step;
        }
        if (ours.find(key)->second != wanted.find(key)->second || ours.at(key) != wanted.at(key)) return 4;
        if (ours.size() != wanted.size()) return 5;
    }
    size_t at = 0;
    for (const auto &item : ours) {
        if (item.first != order[at++] || item.second != wanted.at(item.first)) return 6;
    }
    if (at != order.size()) return 7;
    Key absent;
    do fill(absent);
    while (wanted.count(absent) != 0);
    try {
        ours.at(absent);
        return 8;
    } catch (const std::out_of_range &) {
    }
    std::printf("%zu\n", ours.size());
    return 0;
}

int main() {
    std::unordered_map<std::string, int> texts;
    std::unordered_map<Pair, int, PairHash> pairs;
    const int wrong = compare<std::string>(texts);
    return wrong != 0 ? wrong : 10 * compare<Pair>(pairs);
}
"""

# Ranges and single ones set in a FlagTable and in a plain table, and both read again and again.
FLAGS = r"""
#include <cstdio>
#include <random>
#include "small_unicode.h"

int main() {
    std::mt19937 draw(7);
    for (const size_t size : {1, 255, 256, 257, 70000}) {
        std::vector<uint16_t> wanted(size, 1);
        std::vector<unicode_cpt_flags> ours(size, 1);
        for (int step = 0; step < 200; ++step) {
            size_t begin = draw() % size;
            const size_t end = draw() % 3 == 0 ? begin + 1 : std::min<size_t>(size, begin + draw() % 3000);
            const uint16_t flags = draw() % 4;
            for (; begin < end; ++begin) {
                wanted[begin] = flags;
                ours[begin] = flags;
            }
            const size_t one = draw() % size;
            ours[one].is_uppercase = true;
            wanted[one] |= unicode_cpt_flags::UPPERCASE;
            const auto &read = ours;
            if (read.size() != size) return 1;
            for (size_t at = 0; at < size; ++at) {
                if (read[at].as_uint() != wanted[at]) return 2;
            }
        }
    }
    std::puts("same");
}
"""

# The memory of a vocabulary (kB), then on stdout what it says: of every token, of every code point, of texts on stdin.
SAYS = r"""
#include <cstdio>
#include <cstring>
#include <malloc.h>
#include <string>
#include <vector>
#include "llama.h"
#include "unicode.h"

static void say(const void *data, size_t size) { std::fwrite(data, 1, size, stdout); }
static void quiet(enum ggml_log_level, const char *, void *) {}

int main(int, char **words) {
    llama_log_set(quiet, nullptr);
    const long before = resident();
    llama_model_params settings = llama_model_default_params();
    settings.vocab_only = true;
    llama_model *model = llama_model_load_from_file(words[1], settings);
    if (model == nullptr) return 3;
    const llama_vocab *vocab = llama_model_get_vocab(model);
    malloc_trim(0);
    std::fprintf(stderr, "%ld\n", resident() - before);
    for (llama_token id = 0; id < llama_vocab_n_tokens(vocab); ++id) {
        const int32_t is[] = {llama_vocab_get_attr(vocab, id), llama_vocab_is_eog(vocab, id)};
        say(is, sizeof is);
        for (const bool special : {false, true}) {
            for (const int32_t room : {256, 0}) {
                char piece[256];
                const int32_t size = llama_token_to_piece(vocab, id, piece, room, 0, special);
                say(&size, sizeof size);
                if (size > 0) say(piece, static_cast<size_t>(size));
            }
        }
    }
    for (uint32_t code = 0; code < 0x110100; ++code) {
        const uint16_t flags = unicode_cpt_flags_from_cpt(code).as_uint();
        say(&flags, sizeof flags);
    }
    uint32_t size;
    while (std::fread(&size, sizeof size, 1, stdin) == 1) {
        std::string text(size, ' ');
        if (std::fread(&text[0], 1, size, stdin) != size) return 4;
        for (const bool special : {false, true}) {
            std::vector<llama_token> ids(size + 16);
            const auto room = static_cast<int32_t>(ids.size()), bytes = static_cast<int32_t>(size);
            const int32_t count = llama_tokenize(vocab, text.data(), bytes, ids.data(), room, special, special);
            say(&count, sizeof count);
            if (count < 0) continue;
            say(ids.data(), count * sizeof(llama_token));
            std::vector<char> back(8 * size + 1024);
            const auto most = static_cast<int32_t>(back.size());
            const int32_t length = llama_detokenize(vocab, ids.data(), count, back.data(), most, false, true);
            say(&length, sizeof length);
            if (length > 0) say(back.data(), static_cast<size_t>(length));
        }
    }
    llama_model_free(model);
}
"""

ZEROS = r"""
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
extern "C" void *edgestill_calloc(size_t count, size_t size);

int main() {
    if (edgestill_calloc(SIZE_MAX / 2, 3) != nullptr) return 1;
    std::free(edgestill_calloc(0, 8));
    for (const size_t size : {1u, 4096u, 131071u, 131072u, 1000003u}) {
        for (int again = 0; again < 3; ++again) {  // what was freed dirty may come back
            auto *block = static_cast<unsigned char *>(edgestill_calloc(size, 2));
            for (size_t at = 0; at < 2 * size; ++at) {
                if (block[at] != 0) return 2;
            }
            std::memset(block, 1, 2 * size);
            std::free(block);
        }
    }
    std::puts("zero");
}
"""

Says = Callable[[Path, list[str]], tuple[int, int]]


def _run(text: str, folder: Path, *parts: str) -> str:
    (folder / "main.cpp").write_text(text)
    subprocess.run([*CHECKED, "main.cpp", *parts, "-o", "main"], cwd=folder, env=PLAIN, check=True)
    return subprocess.run([folder / "main"], env=PLAIN, capture_output=True, text=True, check=True).stdout


def test_a_compact_map_does_what_an_unordered_map_does(tmp_path: Path) -> None:
    assert all(int(line) > 10_000 for line in _run(MAPS, tmp_path).split())


def test_a_table_of_flags_does_what_a_vector_does(tmp_path: Path) -> None:
    assert _run(FLAGS, tmp_path, f"-I{llama_source() / 'src'}") == "same\n"


def test_zeros(tmp_path: Path) -> None:
    libraries = _installed_libraries()
    tree = llama_source()
    parts = ["-DES_OWN_LLAMA", str(HERE / "src" / "buffers.cpp"), f"-I{tree / 'ggml' / 'include'}", f"-L{libraries}"]
    parts += [f"-Wl,-rpath,{libraries}", "-lggml-base", "-lggml-cpu"]
    assert _run(ZEROS, tmp_path, *parts) == "zero\n"


def test_each_header_comes_before_its_file(tmp_path: Path) -> None:
    tree = llama_source()
    units = core_units(tree, version_headers(tree, tmp_path))
    found = {
        unit.source.relative_to(tree).as_posix(): Path(unit.flags[unit.flags.index("-include") + 1]).name
        for unit in units
        if "-include" in unit.flags
    }
    assert found == {
        "src/llama-vocab.cpp": "small_vocabulary.h",
        "src/unicode.cpp": "small_unicode.h",
        **dict.fromkeys(("ggml/src/ggml.c", "ggml/src/ggml-alloc.c", "ggml/src/ggml-backend.cpp"), "small_zeros.h"),
    }


def test_the_vocabulary_s_header_includes_first_what_the_file_includes() -> None:
    """Else a header would be read with another map in it than everywhere else."""
    said = re.compile(r'^#include\s+["<](.+?)[">]', re.MULTILINE)
    ours = said.findall((HERE / "src" / "small_vocabulary.h").read_text())
    theirs = said.findall((llama_source() / "src" / "llama-vocab.cpp").read_text())
    assert len(theirs) > 15
    assert set(theirs) <= set(ours)


@pytest.fixture(scope="module")
def says(tmp_path_factory: pytest.TempPathFactory) -> Says:
    """A function that lets both say what a GGUF file's tokens and texts are: the memory of theirs and of ours, in kB.

    Ours are llama.cpp's two files with our headers, in a program that is linked to the installed library: what the
    program has of the library's functions comes before the library's.
    """
    folder = tmp_path_factory.mktemp("says")
    (folder / "main.cpp").write_text(RESIDENT + SAYS)
    libraries, tree = _installed_libraries(), llama_source()
    units = core_units(tree, version_headers(tree, folder))
    # As fast to compile as can be: only what they say counts.
    commands = [
        ["c++", *unit.flags, "-O0", "-fvisibility=default", "-c", str(unit.source), "-o", unit.source.stem + ".o"]
        for unit in units
        if unit.source.parent == tree / "src" and unit.source.name in ("llama-vocab.cpp", "unicode.cpp")
    ]
    include = [f"-I{tree / one}" for one in ("include", "ggml/include", "src")]
    commands.append(["c++", "-std=c++17", "-O1", *include, "-c", "main.cpp", "-o", "main.o"])
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda command: subprocess.run(command, cwd=folder, env=PLAIN, check=True), commands))
    found = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lllama", "-lggml", "-lggml-base"]
    for name, parts in (("theirs", []), ("ours", ["llama-vocab.o", "unicode.o"])):
        subprocess.run(["c++", "main.o", *parts, *found, "-o", name], cwd=folder, env=PLAIN, check=True)

    def say(path: Path, texts: list[str]) -> tuple[int, int]:
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
        asked = b"".join(struct.pack("<I", len(one)) + one for one in data)
        theirs, ours = (
            subprocess.run([folder / name, path], input=asked, env=PLAIN, capture_output=True, check=True, timeout=120)
            for name in ("theirs", "ours")
        )
        assert len(theirs.stdout) > 2_000_000
        assert ours.stdout == theirs.stdout
        return int(theirs.stderr), int(ours.stderr)

    return say


def _texts(tokens: list[str], count: int = 300) -> list[str]:
    draw = random.Random(3)
    return [*hard_texts(), *("".join(draw.choices(tokens, k=draw.randrange(1, 30))) for _ in range(count))]


def test_an_exported_tokenizer_says_the_same(says: Says, tiny_checkpoint: Path, tmp_path: Path) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path)
    says(artifact.model_path, _texts([" the", "light", "s", "\n", "<|im_end|>", "kitchen ", "é", "東", "12"]))


@pytest.mark.parametrize("model", ["llama", "t5", "gpt2", "bert", "plamo2"])
def test_every_kind_of_tokenizer_says_the_same(model: str, says: Says, tmp_path: Path) -> None:
    draw = random.Random(model)
    letters = "abcdeé東" if model != "gpt2" else "abcde\u0120"
    space = "\u0120" if model == "gpt2" else "\u2581"
    made = {"".join(draw.choices(letters, k=draw.randrange(1, 7))) for _ in range(3000)}
    made |= {space + word for word in list(made)[::3]} | set(letters) | {space}
    words = sorted(made)
    draw.shuffle(words)
    specials = ["<unk>", "<s>", "</s>", "<pad>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|im_end|>", "<|end|>"]
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*specials, *raw, *words] if model in ("llama", "t5", "plamo2") else [*specials, *words]
    kinds = [TokenType.CONTROL] * len(specials)
    kinds += [TokenType.BYTE if token in raw else TokenType.NORMAL for token in tokens[len(specials) :]]
    path = tmp_path / "vocabulary.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([draw.uniform(-9, 0) for _ in tokens])
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{one} {two}" for one, two in zip(draw.sample(words, 900), words, strict=False)])
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    says(path, _texts([*draw.sample(words, 300), " ", " ", "<|im_end|>"]))


# SentencePiece's has no merges, of which llama.cpp's memory is the largest.
@pytest.mark.parametrize(("name", "share"), [("tok-qwen2", 0.5), ("tok-llama3", 0.5), ("llama2-spm", 0.65)])
def test_real_tokenizers_say_the_same_in_less_memory(
    name: str, share: float, says: Says, write_checkpoint: Callable[..., Path], shared_data: Path, tmp_path: Path
) -> None:
    import tokenizers

    source = shared_data / name / "tokenizer.built.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(source))
    sizes = {"hidden_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}
    folder = write_checkpoint(tmp_path / "model", vocab_size=tokenizer.get_vocab_size(), **sizes)
    shutil.copyfile(source, folder / "tokenizer.json")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    artifact = export_checkpoint(Checkpoint.open(folder), "gguf", "q8_0", tmp_path)
    tokens = [tokenizer.decode([at]) for at in range(100, 4000, 3)]
    theirs, ours = says(artifact.model_path, _texts(tokens))
    assert ours < theirs * share
