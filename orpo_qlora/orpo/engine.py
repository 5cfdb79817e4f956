"""From token ids to summed log-probs, in the fastest layout that a model supports. Floor 2."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.models.sharding import agreed, has_shards, is_of_one_process
from orpo_qlora.orpo.adapter_check import gradients, gradients_agree, random_adapter
from orpo_qlora.orpo.dropout import Draws
from orpo_qlora.orpo.kernels import attention, row_kernels
from orpo_qlora.orpo.kernels.gated_mlp import fuse_gated_mlps, restore_gated_mlps
from orpo_qlora.orpo.kernels.lora_linear import (
    FusedLinears,
    fuse_lora_linears,
    restore_lora_linears,
)
from orpo_qlora.orpo.kernels.rms_norm import fuse_rms_norms, restore_rms_norms
from orpo_qlora.orpo.logps import Head, frozen_head, token_logps, token_logps_of_trained_head
from orpo_qlora.orpo.objectives.base import PairSums
from orpo_qlora.orpo.processes.ranks import Ranks
from orpo_qlora.orpo.rows.packing import (
    LAYOUTS,
    Layout,
    Needs,
    PackedBatch,
    cost_in_tokens,
    cut_into_micro_steps,
    lay_out,
    tokens_of,
)
from orpo_qlora.orpo.rows.prompt_groups import by_prompt, prompt_groups
from orpo_qlora.orpo.rows.tokens import TokenizedPair

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest difference in mean token log-prob (nats) from the plain forward pass that counts as
rounding. A wrong mask or position shows as tenths at least on real text."""

NAMES: dict[Layout, str] = {
    "shared": "each prompt is computed once for both answers, nothing is padded",
    "packed": "each answer carries its own prompt, nothing is padded",
    "padded": "each answer carries its own prompt, padded to the longest",
}


@dataclass(frozen=True)
class Engine:
    """Computes log-probs of pairs under a policy. Knows layouts, not the loss."""

    policy: PeftModel
    needs: Needs
    layout: Layout
    head: Head | None
    linears: FusedLinears
    falls_back: bool = False
    """Whether the fused kernels failed the start-up check, so that PEFT's own code runs."""
    shares: bool = True
    """Whether pairs of one prompt share it and equal responses. Not with dropout, which every pair
    draws for itself."""
    draws: Draws | None = None
    """What the dropout layers draw from, if there are any and a training has replaced them."""
    kernel: attention.Kernel = "masks"
    """How segments are attended to."""
    rows: row_kernels.Name = "torch"
    """What computes fused norms and activations."""
    rows_problem: str = ""
    """Why the fastest kernels that the device may have do not compute them."""

    @property
    def describe(self) -> str:
        """One sentence on the layout and on the layers that are not fused."""
        longer = ""
        if self.head is None:
            longer += "; the output layer is trained, so its logits are kept"
        if self.linears.left_to_peft:
            longer += f"; {self.linears.left_to_peft} adapter layers run PEFT's own code"
        if self.falls_back:
            longer += (
                "; the fused kernels compute other numbers on this device, so the libraries' own "
                "code runs, which takes longer; please report it (orpo-qlora doctor --json)"
            )
        return f"Layout: {NAMES[self.layout]}{self._attention}{self.describe_rows}{longer}."

    @property
    def _attention(self) -> str:
        """Return the attention kernel where the device has a choice."""
        base = self.policy.get_base_model()
        possible = attention.kernels(base.device, base.dtype)
        if self.layout == "padded" or len(possible) == 1:
            return ""
        text = f"; attention: {attention.KERNELS[self.kernel]}"
        if self.kernel == possible[0]:
            return text
        return f"{text}, as {attention.KERNELS[possible[0]]} failed the start-up check"

    @property
    def describe_rows(self) -> str:
        """What computes norms and activations, to be appended; empty without a choice."""
        base = self.policy.get_base_model()
        possible = row_kernels.names(base.device, base.dtype)
        if self.falls_back or len(possible) == 1:
            return ""
        text = f"; norms and activations: {row_kernels.NAMES[self.rows]}"
        if self.rows == possible[0]:
            return text
        return f"{text}, not {row_kernels.NAMES[possible[0]]}: {self.rows_problem}"

    def cost(self, pair: TokenizedPair) -> int:
        """Return the tokens that a pair sends through the model."""
        return cost_in_tokens(pair, self.layout, self.needs)

    def longest_row(self, pairs: Sequence[TokenizedPair]) -> int:
        """Return the tokens of the longest pair; a forward holds at least these."""
        return max(map(self.cost, pairs))

    def micro_steps(self, pairs: Sequence[TokenizedPair], budget: int) -> list[list[TokenizedPair]]:
        """Return the pairs of a step in groups of at most `budget` tokens."""
        return cut_into_micro_steps(pairs, self.layout, self.needs, budget, shares=self.shares)

    def units(self, pairs: Sequence[TokenizedPair]) -> list[list[TokenizedPair]]:
        """Return the pairs of a step as units of work, each for one process; see `by_prompt`."""
        return by_prompt(pairs) if self.shares else [[pair] for pair in pairs]

    def share(self, pairs: Sequence[TokenizedPair], ranks: Ranks) -> list[TokenizedPair]:
        """Return the pairs of a step that this rank computes; those of one prompt stay together."""
        return list(chain(*ranks.share(self.units(pairs), self.tokens)))

    def portion(
        self, pairs: Sequence[TokenizedPair], budget: int, ranks: Ranks
    ) -> tuple[list[list[TokenizedPair]], list[list[TokenizedPair]]]:
        """Return this rank's micro-steps of a step, and those without a result.

        The latter are empty unless the base is sharded: then a rank with fewer micro-steps than
        another repeats the shortest pair, so that all run as many.
        """
        groups = self.micro_steps(self.share(pairs, ranks), budget)
        if not ranks.shards_base:
            return groups, []
        parts = [list(chain(*part)) for part in ranks.parts(self.units(pairs), self.tokens)]
        most = max(len(self.micro_steps(part, budget)) for part in parts)
        return groups, [[min(pairs, key=self.cost)]] * (most - len(groups))

    def tokens(self, pairs: Sequence[TokenizedPair]) -> int:
        """Return the tokens that pairs send through the model in one forward, padding aside."""
        units = self.units(pairs)
        return sum(tokens_of(unit, self.layout, self.needs) for unit in units)

    def measure(self, pairs: Sequence[TokenizedPair]) -> tuple[PairSums, int]:
        """Return differentiable log-prob sums of B pairs and the tokens sent through the model."""
        device = self.policy.device
        batch = lay_out(pairs, self.layout, self.needs, device, shares=self.shares)
        if self.draws is not None:
            self.draws.place(pairs, batch)
        with _autocast(self.policy):
            hidden = self._hidden(batch).flatten(0, 1)[batch.sources]
            if self.head is not None:
                logps = token_logps(hidden, batch.targets, self.head)
            else:
                output = self.policy.get_base_model().get_output_embeddings()
                logps = token_logps_of_trained_head(hidden, batch.targets, output)
        sums = logps.new_zeros(batch.counts.numel()).index_add(0, batch.slots, logps)
        if batch.origins is not None:
            sums = sums[batch.origins]
        sums = sums.view_as(batch.counts)
        has_single = any(pair.is_single for pair in pairs)
        found = PairSums(sums, batch.counts, self.needs.rejected, has_single=has_single)
        return found, batch.tokens

    def sums_of(self, pair: TokenizedPair) -> Tensor:
        """Return the differentiable prompt, chosen and rejected sums of one pair, shape (1, 3)."""
        return self.measure([pair])[0].sums

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """Return the final hidden state of each of N wanted log-probs, shape (N, H)."""
        with _autocast(self.policy):
            return self._hidden(batch).flatten(0, 1)[batch.sources]

    def forwards(self, pairs: Sequence[TokenizedPair]) -> int:
        """Return how many sequences, prompt with one response, `measure` computes for pairs."""
        groups = prompt_groups(pairs, rejected=self.needs.rejected, shares=self.shares)
        return sum(len(group.responses) for group in groups)

    def _hidden(self, batch: PackedBatch) -> Tensor:
        inputs: dict[str, object] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
        }
        if batch.segments is None:
            inputs["attention_mask"] = batch.attention_mask
        else:
            inputs["attention_mask"] = torch.zeros(
                attention.UNUSED_MASK_SHAPE, device=batch.input_ids.device
            )
            inputs["segments"] = batch.segments
            inputs["attention_kernel"] = self.kernel
        return self.policy.get_base_model().base_model(**inputs, use_cache=False)[0]


def _autocast(policy: PeftModel) -> AbstractContextManager[object]:
    """The adapter is float32; under autocast its products run in the base's narrower type."""
    dtype = policy.get_base_model().dtype
    if dtype in (torch.float32, torch.float64):
        return nullcontext()
    return torch.autocast(policy.device.type, dtype)


def build_engine(policy: PeftModel, needs: Needs, pairs: Sequence[TokenizedPair]) -> Engine:
    """Return an engine in the fastest layout that reproduces the plain forward pass.

    Args:
        policy: base with adapter.
        needs: which log-probs to compute.
        pairs: to check the layout with; the longest is used, because sliding windows and long-range
            position schemes have an effect only there.

    Raises:
        UnsupportedModel: not even the padded layout agrees.
    """
    attention.register()
    model = policy.get_base_model()
    original = model.config._attn_implementation
    pair = max(pairs, key=lambda pair: pair.longest)
    if pair.is_single:  # both responses, so that sharing the prompt is checked too
        response = pair.chosen or pair.rejected
        pair = replace(pair, chosen=response, rejected=response)
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad(), random_adapter(policy):
            restore_modules(policy)
            expected = _Expected(
                plain_sums(policy, pair),
                gradients(policy, pair, lambda short: plain_sums(policy, short)),
            )
            names, problem = row_kernels.names(model.device, model.dtype), ""
            if has_shards(policy):  # in a forward that all share, one may not try what others skip
                names, problem = names[-1:], "the base is sharded"
            for name in (*names, None):
                try:
                    engine = _checked_engine(policy, pair, expected, original, rows=name)
                except row_kernels.KernelError as exc:
                    engine, problem = None, str(exc)
                if engine is not None:
                    shares = not _drops_out(policy)
                    return replace(engine, needs=needs, shares=shares, rows_problem=problem)
                problem = problem or "they failed the start-up check"
                log.info("%s is not used: %s", name, problem)
    finally:
        policy.train(was_training)
    raise UnsupportedModel(
        f"{type(model).__name__} gives other numbers in a batch than one sequence at a time.",
        hint="Choose another base model.",
    )


@dataclass(frozen=True)
class _Expected:
    """What the plain path gives on the pair of the start-up check."""

    sums: Tensor
    gradients: Tensor | None


def _checked_engine(
    policy: PeftModel,
    pair: TokenizedPair,
    expected: _Expected,
    original: str,
    *,
    rows: row_kernels.Name | None,
) -> Engine | None:
    """Return an engine in the fastest layout that agrees; None if none does.

    Args:
        policy: with an adapter that changes something.
        pair: to compare.
        expected: by the plain path.
        original: the model's own attention.
        rows: kernels of fused norms and activations; None to fuse no module.

    Raises:
        KernelError: the kernels do not run on this device.
    """
    model = policy.get_base_model()
    if rows is not None:
        kernels = row_kernels.load(rows, model.device, model.dtype)
        linears = _fuse_modules(policy, kernels)
    else:
        restore_modules(policy)
        layers = sum(isinstance(module, LoraLayer) for module in policy.modules())
        linears = FusedLinears({}, layers)
    everything = Needs(prompt=True, rejected=True)
    engine = Engine(policy, everything, "shared", frozen_head(model), linears, rows is None)
    engine = replace(engine, rows=rows or "torch")
    for layout in LAYOUTS:
        model.set_attn_implementation(original if layout == "padded" else attention.NAME)
        for kernel in attention.kernels(model.device, model.dtype):
            engine = replace(engine, layout=layout, kernel=kernel)
            # In every process: those that share forwards must take the same layout.
            if agreed(policy, _agrees(engine, pair, expected.sums)) and agreed(
                policy, _slopes_agree(engine, pair, expected)
            ):
                return engine
    return None


def _drops_out(policy: PeftModel) -> bool:
    """Whether the adapter has dropout."""
    layers = (module for module in policy.modules() if isinstance(module, LoraLayer))
    return any(
        not isinstance(dropout, nn.Identity)
        for layer in layers
        for dropout in layer.lora_dropout.values()
    )


def _slopes_agree(engine: Engine, pair: TokenizedPair, expected: _Expected) -> bool:
    try:
        found = gradients(engine.policy, pair, engine.sums_of)
    except (ValueError, TypeError, RuntimeError) as exc:
        if _may_be_alone(engine, exc):
            raise
        log.info("%s attention has no gradient on this device: %s", engine.kernel, exc)
        return False
    return gradients_agree(found, expected.gradients, engine.policy.get_base_model().dtype)


def restore_modules(policy: PeftModel) -> None:
    """Undo all fusions: every module runs its library's own forward again."""
    restore_lora_linears(policy)
    restore_gated_mlps(policy)
    restore_rms_norms(policy)


def _fuse_modules(policy: PeftModel, kernels: row_kernels.RowKernels) -> FusedLinears:
    linears = fuse_lora_linears(policy)
    gated = fuse_gated_mlps(policy, linears, kernels.activations)
    norms = fuse_rms_norms(policy, kernels.norm)
    log.info("in one function: %d linears, %d feed-forwards", len(linears.products), gated)
    log.info("norms that keep only their input: %d", norms)
    return linears


def _agrees(engine: Engine, pair: TokenizedPair, expected: Tensor) -> bool:
    try:
        measured, _ = engine.measure(_company(pair))
    except (ValueError, TypeError, RuntimeError) as exc:
        if _may_be_alone(engine, exc):
            raise
        log.info("layout %s does not run on this model: %s", engine.layout, exc)
        return False
    off = (measured.sums[-1] - expected).abs() / measured.counts[-1].clamp(min=1)
    worst = float(off.max())
    allowed = TOLERANCE[engine.policy.get_base_model().dtype]
    log.info("layout %s differs by %.1e nats a token from the plain pass", engine.layout, worst)
    return worst <= allowed


def _may_be_alone(engine: Engine, error: Exception) -> bool:
    """Whether other processes may have had no such error in a forward that all share."""
    return has_shards(engine.policy) and is_of_one_process(error)


def _company(pair: TokenizedPair) -> list[TokenizedPair]:
    """Return three pairs, the last one given: a layout that lets it see the others must not pass.

    The first has another prompt. The second has the same one and a response of its own, so that
    both responses of the last are branches of a row of three.
    """
    other = replace(pair, prompt=(int(not pair.prompt[0]), *pair.prompt[1:]))
    longer = pair.rejected + pair.rejected[-1:]
    return [other, replace(pair, chosen=longer, rejected=pair.chosen), pair]


def plain_sums(policy: PeftModel, pair: TokenizedPair) -> Tensor:
    """Return prompt, chosen and rejected sums from whole logits of single sequences, shape (3,)."""
    start = len(pair.prompt)
    parts = []
    for answer in (pair.chosen, pair.rejected):
        ids = torch.tensor([pair.prompt + answer], device=policy.device)
        with _autocast(policy):
            logits = policy(input_ids=ids, use_cache=False).logits[0, :-1]
        wide = logits.double() if logits.dtype == torch.float64 else logits.float()
        logps = torch.log_softmax(wide, -1).gather(1, ids[0, 1:, None])[:, 0]
        parts.append((logps[: start - 1].sum(), logps[start - 1 :].sum()))
    return torch.stack([parts[0][0], parts[0][1], parts[1][1]])
