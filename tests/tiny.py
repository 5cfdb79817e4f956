"""A tiny random Llama with a real tokenizer and chat template, made on the spot: no download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LINES = (
    "The quick brown fox jumps over the lazy dog.",
    "system user assistant: hello, hi, nice to meet you; leave me alone!",
    "What is gravity? Gravity pulls things together: a dropped ball falls to the floor.",
    "Größe, naïve, 東京, 🙂 and λ are words with more than one byte a letter.",
)


def make_tiny_model(
    folder: Path,
    *,
    vocab: int | Iterable[str] = 400,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
) -> Path:
    """Write a tiny chat model (fp32 safetensors) into `folder` and return it.

    `vocab` is the size of the vocabulary, at least 259, or the lines to learn one of 400 from.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size, lines = (vocab, LINES) if isinstance(vocab, int) else (400, tuple(vocab))
    tokenizer = make_tiny_tokenizer(lines, size)
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        # Ten times the usual spread: the answers of a random model then depend on its input.
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=ends[1],
        eos_token_id=ends[2],
        pad_token_id=ends[0],
    )
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.float32)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    return folder


def make_tiny_experts(folder: Path, kind: str) -> Path:
    """Write a tiny mixture of four experts: `mixtral`, `qwen3_moe` or `qwen2_moe`."""
    import torch
    from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    sizes = {
        **{"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048},
        **{"initializer_range": 0.2, "intermediate_size": 96, "num_experts_per_tok": 2},
        **{"pad_token_id": ends[0], "bos_token_id": ends[1], "eos_token_id": ends[2]},
    }
    qwen = {"num_experts": 4, "moe_intermediate_size": 48}
    configs = {
        "mixtral": lambda: MixtralConfig(**sizes, num_local_experts=4),
        "qwen3_moe": lambda: Qwen3MoeConfig(**sizes, **qwen, head_dim=16),
        "qwen2_moe": lambda: Qwen2MoeConfig(**sizes, **qwen, shared_expert_intermediate_size=32),
    }
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs[kind]()).to(torch.float32)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    return folder


def make_endless_model(folder: Path) -> Path:
    """Write a tiny model whose end tokens are never the likeliest, so that it talks until stopped.

    A zero row of the tied embedding has logit 0, and of 400 others one is always above.
    """
    import torch
    from safetensors.torch import load_file, save_file

    make_tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:3] = torch.zeros(3, 64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_brief_model(folder: Path, ends: int = 120) -> Path:
    """Write a tiny model whose answers end soon: so many of its 400 tokens end one."""
    make_tiny_model(folder)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"eos_token_id": [2, *range(400 - ends, 400)]}))
    return folder


def claim_layers(model: Path, folder: Path, layers: int = 60_000) -> Path:
    """Copy a model whose config then claims so many layers: light in weights, heavy in training."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    return folder


def make_sentencepiece_tokenizer():
    """Return a tokenizer as Llama 2 has it, without a chat template: ▁ for a space, `<s>` first."""
    import string

    from tokenizers import SentencePieceBPETokenizer, processors
    from transformers import PreTrainedTokenizerFast

    learner = SentencePieceBPETokenizer()
    learner.train_from_iterator(
        LINES,
        vocab_size=400,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=list(string.printable),
    )
    learner._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=learner._tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def make_base_model(folder: Path, *, is_sentencepiece: bool = False) -> Path:
    """Write a tiny model without a chat template into `folder` and return it."""
    make_tiny_model(folder)
    if is_sentencepiece:
        (folder / "tokenizer.json").unlink()
        make_sentencepiece_tokenizer().save_pretrained(folder)
    return strip_template(folder)


def strip_template(folder: Path) -> Path:
    """Take the chat template out of a model folder."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def make_tiny_tokenizer(lines: Iterable[str] = LINES, size: int = 400):
    """Return a byte-level BPE tokenizer with a ChatML template, learnt from a few lines."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        lines,
        vocab_size=size,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learner._tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
