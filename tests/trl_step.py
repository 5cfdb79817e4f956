"""One ORPO step of ours against TRL's ORPOTrainer on the same token ids.

TRL appends a second end token after the template's newline; here both get the ids we make. Its
`log_odds_ratio` is the mean of log σ(z) and its `log_odds_chosen` the mean of z; ours is z.
"""

import pytest
import torch
from datasets import Dataset
from policies import gradients, relative_difference
from transformers import PreTrainedTokenizerBase
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.objectives.orpo import Weights, orpo_terms
from orpo_qlora.orpo.packing import Needs
from orpo_qlora.orpo.trainer import measure_pairs, step_totals

LAMBDA = 0.3
WEIGHTS = Weights(LAMBDA, "sequence", "token")


def trl_trainer(policy, tokenizer: PreTrainedTokenizerBase, tmp_path) -> ORPOTrainer:
    settings = ORPOConfig(
        output_dir=str(tmp_path),
        beta=LAMBDA,
        per_device_train_batch_size=8,
        max_length=512,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    unused = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    return ORPOTrainer(
        model=policy, args=settings, train_dataset=unused, processing_class=tokenizer
    )


def trl_batch(pairs) -> dict[str, torch.Tensor]:
    batch = {}
    for side in ("chosen", "rejected"):
        answers = [getattr(pair, side) for pair in pairs]
        width = max(len(p.prompt) + len(a) for p, a in zip(pairs, answers, strict=True))
        ids = torch.zeros(len(pairs), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (pair, answer) in enumerate(zip(pairs, answers, strict=True)):
            start, end = len(pair.prompt), len(pair.prompt) + len(answer)
            ids[row, :end] = torch.tensor(pair.prompt + answer)
            mask[row, :end] = 1
            labels[row, start:end] = torch.tensor(answer)
        batch |= {
            f"{side}_input_ids": ids,
            f"{side}_attention_mask": mask,
            f"{side}_labels": labels,
        }
    return batch


def assert_step_equals_trl(
    policy, tokenizer, pairs, tmp_path, *, loss_tolerance, gradient_tolerance
):
    """Compare loss, metrics and every adapter gradient of one step."""
    policy.eval()
    trainer = trl_trainer(policy, tokenizer, tmp_path)
    theirs, their_metrics = trainer.get_batch_loss_metrics(policy, trl_batch(pairs))
    theirs.backward()
    wanted = gradients(policy)

    built = build_engine(policy, Needs(prompt=True, rejected=True), pairs)
    ours = 0.0
    for group in built.micro_steps(pairs, 64):
        terms = orpo_terms(built.measure(group)[0], step_totals(pairs, WEIGHTS), WEIGHTS)
        terms.loss.backward()
        ours += terms.loss.item()
    measured = gradients(policy)
    metrics = measure_pairs(built, pairs, WEIGHTS, 64)

    assert ours == pytest.approx(theirs.item(), rel=loss_tolerance)
    for name in ("nll_loss", "logps/chosen", "logps/rejected", "rewards/margins"):
        assert metrics[name] == pytest.approx(their_metrics[name], rel=loss_tolerance, abs=1e-7)
    assert metrics["rewards/accuracies"] == pytest.approx(their_metrics["rewards/accuracies"])
    assert metrics["log_odds_ratio"] == pytest.approx(
        their_metrics["log_odds_chosen"], rel=loss_tolerance, abs=1e-6
    )
    assert metrics["or_loss"] == pytest.approx(-their_metrics["log_odds_ratio"], rel=loss_tolerance)
    assert measured.keys() == wanted.keys()
    worst = {name: relative_difference(measured[name], wanted[name]) for name in wanted}
    assert max(worst.values()) < gradient_tolerance, worst
