"""Chat templates against transformers' apply_chat_template."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from edgestill.dataset import Message
from edgestill.errors import InputError
from edgestill.runtime.chat_template import MAX_TEMPLATE_CHARACTERS, render

CONVERSATION = (
    Message("system", "You are brief & <b>plain</b>."),
    Message("user", "  naïve café — 東京?\n"),
    Message("assistant", "Yes."),
    Message("user", "and the hall too"),
)

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "bos and blocks": (
        "{{ bos_token }}\n{%- for m in messages %}\n    {% if m.role == 'user' %}\n"
        "  [INST] {{ m.content | trim }} [/INST]\n"
        "    {% else %}\n{{ m.content }}{{ eos_token }}\n    {% endif %}\n{%- endfor %}\n"
    ),
    "loop controls and namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{{ ns.n }}:{{ m.content }}{% if ns.n == 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "tojson": "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}|{{ tools is none }}",
    "generation mark": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "undefined names": "{% if tools %}T{% endif %}{{ nothing }}{{ messages[0]['content'] }}{{ nobody }}",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(tiny_checkpoint, bos_token="<|user|>", pad_token=None)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_rendered_conversation_equals_transformers(
    name: str, prompt: bool, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    messages = [{"role": m.role, "content": m.content} for m in CONVERSATION]
    expected = tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=prompt
    )
    rendered = render(
        TEMPLATES[name], CONVERSATION, add_generation_prompt=prompt, bos_token="<|user|>", eos_token="<|end|>"
    )
    assert rendered == expected


def test_the_checkpoints_own_template_equals_transformers(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    messages = [{"role": m.role, "content": m.content} for m in CONVERSATION]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert render(str(tokenizer.chat_template), CONVERSATION) == expected


def test_variables_reach_the_template() -> None:
    template = "{{ 'on' if enable_thinking else 'off' }}"
    assert render(template, CONVERSATION, variables={"enable_thinking": True}) == "on"
    assert render(template, CONVERSATION) == "off"


def test_without_a_template_the_contents_are_lines() -> None:
    turns = (Message("user", "one"), Message("assistant", "two"))
    assert render(None, turns, add_generation_prompt=False) == "one\ntwo"
    assert render(None, turns) == "one\ntwo\n"


def test_the_date_is_available() -> None:
    assert len(render("{{ strftime_now('%Y-%m-%d') }}", CONVERSATION)) == 10


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in %}", "not readable"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{{ messages[99].content }}", "refuses"),
        ("{{ 1 / 0 }}", "refuses"),
        ("{{ 'x' * 1 }}" + "x" * MAX_TEMPLATE_CHARACTERS, "characters"),
        ("{% for a in range(90000) %}{{ 'xxxxxxxxxx' ~ '" + "y" * 500 + "' }}{% endfor %}", "characters"),
    ],
)
def test_a_bad_template_is_refused(template: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        render(template, CONVERSATION)


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(InputError):
        render("{{ messages }}", ())
