"""Fixtures that every room's tests share: real inputs where they exist, and tiny models made offline."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile("edgestill", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgestill")

if TYPE_CHECKING:
    from edgestill.artifact import Artifact

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

TEXTS = (
    "dim the kitchen lights to 30 percent at eight",
    "Once upon a time there was a tiny model. It's 3 o'clock, isn't it?",
    '{"action": "set_brightness", "room": "kitchen", "value": 30}',
    "naïve café — 東京 \U0001f600 \t tabs\n\nand   runs of spaces 1234567",
)


@pytest.fixture
def replace_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[str], Path]]:
    """Put a script in the place of the process that ``bench`` measures; a model's path tells it how to be."""

    def replace(script: str) -> Callable[[str], Path]:
        (tmp_path / "stub_worker.py").write_text(script)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.setattr("edgestill.runtime.bench_process._WORKER", "stub_worker")

        def model(how: str) -> Path:
            path = tmp_path / f"model-{how}.gguf"
            path.write_bytes(b"x" * 1234)
            return path

        return model

    return replace


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Give a TCP port of the loopback interface that nobody listens on."""

    def free() -> int:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            return int(one.getsockname()[1])

    return free


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data on this machine")
    return SHARED_DATA


def make_checkpoint(
    folder: Path, *, architecture: str = "llama", tied: bool = True, seed: int = 0, **sizes: object
) -> Path:
    """Write a random tiny Hugging Face folder with its own byte-level BPE tokenizer and chat template."""
    import tokenizers
    import torch
    import transformers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    settings: dict[str, object] = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "vocab_size": len(fast),
        **sizes,
    }
    kind = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "olmo2": (transformers.Olmo2Config, transformers.Olmo2ForCausalLM),
        "granite": (transformers.GraniteConfig, transformers.GraniteForCausalLM),
        "smollm3": (transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM),
        "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
        "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
        "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    }[architecture]
    config = kind[0](
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.1,
        **settings,
    )
    torch.manual_seed(seed)
    model = kind[1](config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>", "pad_token": "<|pad|>"}))
    return folder


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """The function that writes a random tiny model into a folder: sizes and architecture by keyword."""
    return make_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama (GQA, tied embeddings) with a byte-level BPE tokenizer."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 (attention biases, untied head)."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny-qwen2"), architecture="qwen2", tied=False)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen3 (norms on the heads of q and k, heads wider than hidden / heads)."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny-qwen3"), architecture="qwen3", head_dim=32)


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Mistral (a window as long as its context, heads narrower than hidden / heads)."""
    folder = tmp_path_factory.mktemp("tiny-mistral")
    return make_checkpoint(folder, architecture="mistral", tied=False, sliding_window=256, head_dim=8)


@pytest.fixture(scope="session")
def tiny_granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Granite, all its factors different."""
    folder = tmp_path_factory.mktemp("tiny-granite")
    factors = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1}
    return make_checkpoint(folder, architecture="granite", logits_scaling=3.0, attention_bias=True, **factors)


@pytest.fixture(scope="session")
def tiny_smollm3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random five-layer SmolLM3: the fourth has no rotary embedding."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny-smollm3"), architecture="smollm3", num_hidden_layers=5)


@pytest.fixture(scope="session")
def tiny_olmo2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer OLMo 2."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny-olmo2"), architecture="olmo2", tied=False)


@pytest.fixture(scope="session")
def tiny_phi3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Phi-3: LongRoPE from token 64 on, over three quarters of each head."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0 + index / 10 for index in range(6)],
        "long_factor": [1.5 + 2 * index for index in range(6)],
        "original_max_position_embeddings": 64,
    }
    folder = tmp_path_factory.mktemp("tiny-phi3")
    # transformers takes the configuration's own original context (by default 4096) over that of rope_parameters.
    original = {"original_max_position_embeddings": 64}
    return make_checkpoint(folder, architecture="phi3", tied=False, rope_parameters=rope, **original)


@pytest.fixture(scope="session")
def tiny_gemma2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random three-layer Gemma 2, its window of 32 in the first and the third layer."""
    folder = tmp_path_factory.mktemp("tiny-gemma2")
    sizes = {"num_hidden_layers": 3, "head_dim": 32, "query_pre_attn_scalar": 32}
    return make_checkpoint(folder, architecture="gemma2", sliding_window=32, attn_logit_softcapping=5.0, **sizes)


@pytest.fixture(scope="session")
def tiny_gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random seven-layer Gemma 3, its window of 32 in all layers but the sixth."""
    folder = tmp_path_factory.mktemp("tiny-gemma3")
    sizes = {"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32}
    return make_checkpoint(folder, architecture="gemma3", sliding_window=32, **sizes)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer GPT-2."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    return make_checkpoint(folder, architecture="gpt2", n_embd=64, n_head=4, n_layer=2, n_positions=256)


LABELS = ("card_arrival", "exchange_rate", "lost_card", "pin_blocked", "top_up")


def make_classifier(folder: Path, kind: str, **sizes: object) -> Path:
    """Write a random tiny sequence classifier with its own WordPiece tokenizer; it reads at most 64 tokens."""
    import tokenizers
    import torch
    import transformers
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    names = {
        "vocab_size": len(fast),
        "pad_token_id": 0,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: number for number, label in enumerate(LABELS)},
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    common = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128, **names}
    decoder = {**common, "num_key_value_heads": 2}
    config = {
        "bert": lambda: transformers.BertConfig(**{**common, **sizes}),
        "roberta": lambda: transformers.RobertaConfig(**{**common, **sizes}),
        "distilbert": lambda: transformers.DistilBertConfig(
            **{**names, "dim": 64, "n_layers": 1, "n_heads": 4, "hidden_dim": 128, **sizes}
        ),
        "llama": lambda: transformers.LlamaConfig(**{**decoder, **sizes}),
        "qwen2": lambda: transformers.Qwen2Config(**{**decoder, **sizes}),
        "qwen3": lambda: transformers.Qwen3Config(**{**decoder, "head_dim": 16, **sizes}),
    }[kind]()
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classifier_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random one-layer sequence classifier of each kind: its checkpoint's folder."""
    kinds = ("bert", "roberta", "distilbert", "llama", "qwen2", "qwen3")
    root = tmp_path_factory.mktemp("classifiers")
    return {kind: make_classifier(root / kind, kind) for kind in kinds}


@pytest.fixture(scope="session")
def portable_classifiers(
    classifier_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    """The onnx-portable-fp32 export of each of ``classifier_folders``."""
    from edgestill.artifact import Checkpoint
    from edgestill.export import export_checkpoint

    root = tmp_path_factory.mktemp("portable")
    return {
        kind: export_checkpoint(Checkpoint.open(folder), "onnx-portable", "fp32", root / kind)
        for kind, folder in classifier_folders.items()
    }


@pytest.fixture(scope="session")
def portable_decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Artifact]]:
    """Checkpoint and onnx-portable-fp32 export of a Llama, a Phi-3 with LongRoPE and a Gemma 3 with a window of 32."""
    from edgestill.artifact import Checkpoint
    from edgestill.export import export_checkpoint

    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0 + index / 10 for index in range(6)],
        "long_factor": [1.5 + 2 * index for index in range(6)],
        "original_max_position_embeddings": 64,
    }
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32}
    root = tmp_path_factory.mktemp("portable-decoders")
    checkpoints = {
        "llama": make_checkpoint(root / "llama", num_hidden_layers=1),
        "phi3": make_checkpoint(
            root / "phi3", architecture="phi3", tied=False, num_hidden_layers=1, rope_parameters=rope
        ),
        "gemma3": make_checkpoint(
            root / "gemma3", architecture="gemma3", head_dim=32, query_pre_attn_scalar=32, **layers
        ),
    }
    return {
        kind: (folder, export_checkpoint(Checkpoint.open(folder), "onnx-portable", "fp32", root / f"{kind}-files"))
        for kind, folder in checkpoints.items()
    }
