"""What is learnt under the chat templates in use: every byte of the answers and their ends, and no other.

The templates are written here after what the models' own write; the tokens between them are the real ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.dataset import Example, Message
from edgestill.distill.encode import ChatTokenizer
from edgestill.errors import DataError

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@dataclasses.dataclass(frozen=True)
class Style:
    """A chat template; ``answer`` is what the model has to write for a content."""

    template: str
    bos: str
    end: str
    special: tuple[str, ...]
    before: str = ""
    after: str = ""
    trims: bool = False

    def answer(self, content: str) -> str:
        """What is generated for an answer."""
        return self.before + (content.strip() if self.trims else content) + self.after + self.end


TURNS = "{% for m in messages %}"
GENERATION = "{% if add_generation_prompt %}"
INST = (
    "{{ bos_token }}" + TURNS + "{% if m.role == 'assistant' %}BEFORE{{ m.content }}AFTER{% else %}"
    "{% if not loop.first and messages[loop.index0 - 1].role == 'assistant' %}{{ AGAIN }}{% endif %}"
    "[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
STYLES = {
    "ChatML": Style(
        TURNS
        + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        + GENERATION
        + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|endoftext|>",
        "<|im_end|>",
        ("<|im_start|>",),
    ),
    "Llama-2": Style(
        INST.replace("BEFORE", " ").replace("AFTER", " {{ eos_token }}").replace("AGAIN", "bos_token"),
        "<s>",
        "</s>",
        (),
        before=" ",
        after=" ",
    ),
    "Llama-3": Style(
        "{{ bos_token }}"
        + TURNS
        + "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        + GENERATION
        + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
        trims=True,
    ),
    "Phi-3": Style(
        TURNS
        + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        + GENERATION
        + "{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}",
        "<s>",
        "<|end|>",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>"),
    ),
    "Phi-4": Style(
        TURNS
        + "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        + GENERATION
        + "{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        "<|endoftext|>",
        "<|im_end|>",
        ("<|im_start|>", "<|im_sep|>"),
    ),
    "Zephyr": Style(
        TURNS
        + "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        + GENERATION
        + "{{ '<|assistant|>\n' }}{% endif %}",
        "<s>",
        "</s>",
        (),
    ),
    "Gemma": Style(
        "{{ bos_token }}"
        + TURNS
        + "{% set role = 'model' if m.role == 'assistant' else m.role %}"
        + "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        + GENERATION
        + "{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos>",
        "<end_of_turn>",
        ("<start_of_turn>",),
        trims=True,
    ),
    "Mistral": Style(
        INST.replace("BEFORE", " ").replace("AFTER", "{{ eos_token }}").replace("AGAIN", "''"),
        "<s>",
        "</s>",
        (),
        before=" ",
    ),
}


def byte_level(style: Style) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer as GPT-2's is, trained on a little text, with the style's special tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[style.bos, style.end, *style.special],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    text = "the lamp in the hall is on \n\n\n and  off\n\n assistant user INST [INST] [/INST] model\n\n"
    tokenizer.train_from_iterator([text] * 20, trainer)
    return tokenizer


def chat(style: Style, tokenizer: tokenizers.Tokenizer) -> ChatTokenizer:
    end = tokenizer.token_to_id(style.end)
    return ChatTokenizer(tokenizer, style.template, style.bos, style.end, frozenset([end]), end, end)


CHATS = {name: chat(style, byte_level(style)) for name, style in STYLES.items()}
CONTENT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<|>"), min_size=1, max_size=24),
    st.sampled_from(["\n", "\n\nthe lamp", " on ", "[/INST] the", "assistant\n", "é🚲\n\n", "  ", "[INST]"]),
).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> Example:
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Message("user", draw(CONTENT)), Message("assistant", draw(CONTENT))]
    return Example(tuple(turns), None, "drawn:1")


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=150, deadline=None)
@given(conversations())
def test_exactly_the_answers_bytes_are_learnt(name: str, example: Example) -> None:
    style, tokenizer = STYLES[name], CHATS[name]
    row = tokenizer.encode(example)
    ids = row.input_ids.tolist()
    answers = [style.answer(m.content) for m in example.messages if m.role == "assistant"]
    # Each run of learnt tokens is one answer, byte by byte; what is not learnt is all the rest.
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.labels_mask.astype(int), [0])))).reshape(-1, 2)
    assert [tokenizer.tokenizer.decode(ids[a:b], skip_special_tokens=False) for a, b in edges.tolist()] == answers
    assert row.labels_mask[-1]
    whole = tokenizer.rendered(example.messages, add_generation_prompt=False)
    assert whole.startswith(tokenizer.tokenizer.decode(ids, skip_special_tokens=False))
    # The prompt of the last answer is what the runtime will show.
    shown = tokenizer.rendered(example.prompt, add_generation_prompt=True)
    assert tokenizer.tokenizer.decode(ids[: edges[-1][0]], skip_special_tokens=False) == shown


@pytest.mark.parametrize("name", STYLES)
def test_of_final_turns_the_last_answer_alone_is_learnt(name: str) -> None:
    turns = (Message("user", "1"), Message("assistant", "2"), Message("user", "3"), Message("assistant", "4"))
    row = CHATS[name].encode(Example(turns), turns="final")
    learnt = CHATS[name].tokenizer.decode(row.input_ids[row.labels_mask].tolist(), skip_special_tokens=False)
    assert learnt == STYLES[name].answer("4")
    assert np.flatnonzero(row.labels_mask)[0] == len(row.labels_mask) - row.labels_mask.sum()


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
@pytest.mark.parametrize("name", ["Llama-2", "Mistral", "Zephyr"])
def test_a_sentencepiece_tokenizer_learns_the_same_bytes(name: str) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(DATA / "llama2-spm" / "tokenizer.built.json"))
    style, chat_tokenizer = STYLES[name], chat(STYLES[name], tokenizer)
    turns = [Message("user", "turn the lamp on"), Message("assistant", "It is on."), Message("user", "and off?")]
    row = chat_tokenizer.encode(Example((*turns, Message("assistant", "Off, à present."))))
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.labels_mask.astype(int), [0])))).reshape(-1, 2)
    said = [tokenizer.decode(row.input_ids[a:b].tolist(), skip_special_tokens=False) for a, b in edges.tolist()]
    assert [text.strip() for text in said] == [style.answer(a).strip() for a in ("It is on.", "Off, à present.")]


def test_a_template_that_rewrites_earlier_turns_is_refused_and_its_final_turn_is_not() -> None:
    """As reasoning models' templates do: the thoughts of earlier answers are cut out."""
    forgetful = STYLES["ChatML"].template.replace(
        "m.content + '<|im_end|>\n'",
        "(m.content if loop.last else m.content.split('</think>')[-1]) + '<|im_end|>\n'",
    )
    tokenizer = dataclasses.replace(CHATS["ChatML"], template=forgetful)
    thought = Message("assistant", "<think>x</think>y")
    turns = (Message("user", "a"), thought, Message("user", "b"), thought)
    row = tokenizer.encode(Example(turns))
    learnt = tokenizer.tokenizer.decode(row.input_ids[row.labels_mask].tolist(), skip_special_tokens=False)
    assert learnt == "y<|im_end|><think>x</think>y<|im_end|>"
    moody = STYLES["ChatML"].template.replace(TURNS, "{{ messages | length }}" + TURNS)
    with pytest.raises(DataError, match=r"distill\.turns: final"):
        dataclasses.replace(CHATS["ChatML"], template=moody).encode(Example(turns, None, "rows:1"))
