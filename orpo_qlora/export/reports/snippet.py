"""Code to load an adapter with, ready to paste: the base as the run had it. Floor 5; no torch."""

from __future__ import annotations

import json

from orpo_qlora.config import TrainConfig
from orpo_qlora.export.origin import Origin
from orpo_qlora.models.templates.chat_templates import IM_END

QUESTION = "Why do cats purr?"
_DTYPES = {name: f"torch.{name}" for name in ("float32", "bfloat16", "float16")}
# As `models.devices.hardware.choose_arithmetic` chooses.
_AUTO_DTYPE = """\
has_bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
dtype = torch.bfloat16 if has_bfloat16 else torch.float32"""
_NF4 = """
quantized = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=dtype,
)"""
_QUANTIZED = ", quantization_config=quantized"
# With AVX-512-BF16, bitsandbytes 0.50 would compute in bfloat16 on a CPU, whatever `dtype` says.
_UNPACKED = """
if device == "cpu":
    base = base.dequantize(dtype)  # the same numbers, unpacked: exact and faster there"""

_ENDS = f"""\
ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("{IM_END}")]
"""


def loading_code(origin: Origin, config: TrainConfig, folder: str, template: str = "") -> str:
    """Return a program that loads base and adapter and answers a question.

    Args:
        origin: the base model.
        config: the run's settings.
        folder: of the adapter, as unpacked by the recipient.
        template: text of the chat template beside the adapter; empty if its tokenizer is not
            there.
    """
    is_packed = config.quantization == "nf4"
    names = ["AutoModelForCausalLM", "AutoTokenizer"] + ["BitsAndBytesConfig"] * is_packed
    where = "  # a folder of this name, or where your copy is" if origin.is_local else ""
    revision = f", revision={_text(origin.revision)}" if origin.revision else ""
    tokenizer = "ADAPTER" if template else f"BASE{revision}"
    # A base model's own settings may not know what ends a turn.
    ends, stop = (_ENDS, ", eos_token_id=ends") if IM_END in template else ("", "")
    dtype = _DTYPES.get(config.compute_dtype)
    return f"""\
import torch
from peft import PeftModel
from transformers import {", ".join(names)}

BASE = {_text(origin.name)}{where}
ADAPTER = {_text(folder)}  # the unpacked folder

device = "cuda" if torch.cuda.is_available() else "cpu"
{f"dtype = {dtype}" if dtype else _AUTO_DTYPE}{_NF4 if is_packed else ""}
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
base = AutoModelForCausalLM.from_pretrained(
    BASE{revision}, dtype=dtype, device_map={{"": device}}{_QUANTIZED if is_packed else ""}
){_UNPACKED if is_packed else ""}
model = PeftModel.from_pretrained(base, ADAPTER).eval()

messages = [{{"role": "user", "content": {_text(QUESTION)}}}]
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(device)
{ends}answer = model.generate(**prompt, max_new_tokens=200, do_sample=False{stop})
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def _text(value: str) -> str:
    """Return a text as Python and JSON alike write it."""
    return json.dumps(value, ensure_ascii=False)
