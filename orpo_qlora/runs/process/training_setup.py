"""From settings to what is trained: base, tokens, engine. Floor 3.

The worker and the estimate share this, so that what is measured is what will be trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.models import loading, sharding
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.generation.generate import answer_all
from orpo_qlora.models.generation.sampling import Conversation, Sampling
from orpo_qlora.models.grouped_keys import repeat_keys_where_needed
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.kernels.gated_mlp import suspended_gated_mlps
from orpo_qlora.orpo.loss import needs_of
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.reference import ReferenceFile, digest_of
from orpo_qlora.orpo.rows.token_cache import tokenize_once
from orpo_qlora.orpo.rows.tokens import Tokenized, TokenizedPair
from orpo_qlora.runs.identity import Identity

SAMPLE_TOKENS = 64
SAMPLES = 3
"""Number of sample prompts where the settings name none."""
LAYOUT_PAIRS = 64
"""Number of pairs of which the longest one checks the layout."""


def load_base(config: TrainConfig, *, on_cpu: bool = False) -> loading.Base:
    """Return the base model that these settings ask for; raises what `loading.load_base` does."""
    return loading.load_base(
        config.model,
        config.revision,
        quantization=config.quantization,
        compute_dtype=config.compute_dtype,
        chat_template=config.chat_template,
        on_cpu=on_cpu,
    )


def load_base_to_train(config: TrainConfig, ranks: Ranks = ALONE) -> loading.Base:
    """Return the base model as `load_base` does; this rank's part of it where it is sharded.

    Raises on all ranks:
        UnsupportedModel: the settings ask for a number type that cannot be trained in, or the base
            cannot be sharded.
    """

    def load() -> loading.Base:
        hardware.refuse_untrainable(config.compute_dtype)
        return load_base(config)

    def load_part() -> loading.Base:
        hardware.refuse_untrainable(config.compute_dtype)
        base = load_base(config, on_cpu=True)
        sharding.shard(base.model, base.arithmetic.device)
        repeat_keys_where_needed(base.model)
        return base

    if not config.shard_base or ranks.size == 1:
        return ranks.together(load)
    base = ranks.in_turn(load_part)
    ranks.shards_base = True
    return base


def tokenize(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    *,
    may_be_empty: bool = False,
) -> Tokenized:
    """Return the tokenised pairs, from the token cache of the home folder if present.

    With `may_be_empty` the chat template may refuse all pairs.

    Raises:
        DataError: no pair fits.
    """
    cache, limit = storage.home() / "cache", config.max_length
    return tokenize_once(
        cache, tokenizer, pairs, limit, config.over_length, may_be_empty=may_be_empty
    )


def engine_for(config: TrainConfig, policy: PeftModel, pairs: Sequence[TokenizedPair]) -> Engine:
    """Return the engine of a training; raises what `build_engine` does."""
    return build_engine(policy, needs_of(config), pairs[:LAYOUT_PAIRS])


def attach_adapter(base: loading.Base, config: TrainConfig, start: Path) -> PeftModel:
    """Return the policy with a new adapter, or with a copy of the one in `start`.

    Raises what `loading.attach_new_adapter` and `loading.attach_start_adapter` do.
    """
    if config.start_from:
        return loading.attach_start_adapter(base, start, config)
    return loading.attach_new_adapter(base, config)


def reference_file(
    config: TrainConfig,
    base: loading.Base,
    identity: Identity,
    pairs: Sequence[TokenizedPair],
    copy: Path,
    start: str = "",
) -> ReferenceFile:
    """Return where the reference's log-probs of a run are kept.

    Other pairs, another base or starting adapter, or other arithmetic give another file; template
    and length policy are in the token ids. The split into training and held-out pairs does not
    matter.

    Args:
        config: the run's settings.
        base: as loaded.
        identity: of the training, for the files of the base.
        pairs: training and held-out ones.
        copy: the run's own copy.
        start: hash of the adapter that training starts from, empty for a new one.
    """
    digests = " ".join(sorted({digest_of(pair) for pair in pairs}))
    return ReferenceFile(
        storage.home() / "cache" / "reference",
        copy,
        {
            "pairs": hashlib.sha256(digests.encode()).hexdigest(),
            "base": json.dumps(identity.model, sort_keys=True),
            "model": f"{config.model} {config.revision}".strip(),
            "quantization": config.quantization,
            "arithmetic": f"{base.arithmetic.dtype} {base.arithmetic.device}",
            "starting_adapter": start,
        },
    )


def trained_bytes(policy: PeftModel) -> int:
    """Return the size of the weights that are trained."""
    return sum(p.nbytes for p in policy.parameters() if p.requires_grad)


def sample_prompts(config: TrainConfig, pairs: Sequence[PreferencePair]) -> list[str]:
    """Return the sample prompts: those of the settings, else some of the pairs'."""
    if config.sample_prompts:
        return list(config.sample_prompts)
    # Samples leave out earlier turns, so single-turn prompts come first.
    alone = sorted(pairs, key=lambda pair: bool(pair.earlier))
    return list(dict.fromkeys(pair.prompt for pair in alone))[:SAMPLES]


def sample_tools(pairs: Sequence[PreferencePair]) -> dict[str, str]:
    """Return the tools of the prompts that have some, for answering these prompts alone."""
    return {pair.prompt: pair.tool_use.tools for pair in pairs if pair.tool_use.tools}


def answer_samples(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_tokens: int = SAMPLE_TOKENS,
    adapter: str = loading.ADAPTER,
    tools: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the likeliest answers with the adapter (`sampling.BASE`: none), in this order."""
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    known = tools or {}
    conversations = [
        Conversation((Message("user", text),), adapter, tools=known.get(text, ""))
        for text in prompts
    ]
    # Fused feed-forwards unpack 4-bit weights for each token, and always use the adapter.
    with suspended_gated_mlps(policy):
        return answer_all(policy, tokenizer, conversations, sampling)
