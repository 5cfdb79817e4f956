"""Small files in the shapes of well-known public data give exactly the pairs they state."""

import json

import pytest
from files import assistant, loaded, parquet, separated, user

from orpo_qlora.errors import DataError

Q, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "No idea."
Q2, GOOD2, BAD2 = "And at dusk?", "The light's path is longer.", "It rests."
CHAT, ONCE = [user(Q), assistant(GOOD)], [(Q, GOOD, BAD)]
BOTH = [(Q, GOOD, BAD), (Q2, GOOD2, BAD2)]
LONG = [user(Q), assistant("Which sky?"), user(Q2)]


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def whole(question, answer):
    return [user(question), assistant(answer)]


def part(text):
    return [{"type": "text", "text": text, "image": None, "mimeType": None}]


CASES = {
    # Chosen and rejected by name.
    "ultrafeedback_binarized": (
        [{"prompt": Q, "prompt_id": "a1", "chosen": whole(Q, GOOD), "rejected": whole(Q, BAD),
          "messages": whole(Q, GOOD), "score_chosen": 9.0, "score_rejected": 3.0}], ONCE,
    ),
    "argilla ultrafeedback preferences": (
        [{"source": "x", "instruction": Q, "chosen_response": GOOD, "rejected_response": BAD,
          "chosen_avg_rating": 5.0, "rejected_avg_rating": 1.0, "chosen_model": "m"}], ONCE,
    ),
    "hh-rlhf": (
        [{"chosen": f"\n\nHuman: {Q}\n\nAssistant: {GOOD}",
          "rejected": f"\n\nHuman: {Q}\n\nAssistant: {BAD}"}], ONCE,
    ),
    "full-hh-rlhf": (
        [{"prompt": f"\n\nHuman: {Q}\n\nAssistant:", "response": f" {GOOD}", "chosen": f" {GOOD}",
          "rejected": f" {BAD}"}], [(Q, f" {GOOD}", f" {BAD}")],
    ),
    "stack-exchange-paired": (
        [{"qid": 7, "question": Q, "date": "2020/01/01", "metadata": ["u"], "response_j": GOOD,
          "response_k": BAD}], ONCE,
    ),
    "orca_dpo_pairs": ([{"system": "", "question": Q, "chosen": GOOD, "rejected": BAD}], ONCE),
    "distilabel intel orca": (
        [{"system": "", "input": Q, "chosen": GOOD, "rejected": BAD, "generations": [GOOD, BAD],
          "order": ["chosen", "rejected"], "rating": [9.0, 3.0], "status": "unchanged",
          "original_chosen": GOOD, "original_rejected": BAD, "chosen_score": 9.0}], ONCE,
    ),
    "dpo-mix-7k": (
        [{"dataset": "x", "chosen": whole(Q, GOOD), "chosen_rating": 5.0,
          "rejected": whole(Q, BAD), "rejected_rating": 1.0}], ONCE,
    ),
    "distilabel capybara": (
        [{"source": "x", "conversation": [{"input": Q, "output": "Which sky?"}],
          "original_response": GOOD2, "generation_prompt": [Q], "raw_generation_responses": ["x"],
          "new_generations": ["x"], "prompt": Q, "chosen": [*LONG, assistant(GOOD2)],
          "rejected": [*LONG, assistant(BAD2)], "rating_chosen": 5, "rating_rejected": 1}],
        [(Q2, GOOD2, BAD2)],
    ),
    "Tulu 3 mixture": (
        [{"id": "1", "source": "x", "prompt": Q, "models": ["a", "b"], "chosen": whole(Q, GOOD),
          "rejected": whole(Q, BAD), "chosen_rating": 5, "rejected_rating": 1}], ONCE,
    ),
    "Skywork": (
        [{"chosen": whole(Q, GOOD), "rejected": whole(Q, BAD), "source": "magpie"}], ONCE,
    ),
    "Snorkel Mistral PairRM": (
        [{"prompt_id": "1", "prompt": Q, "chosen": whole(Q, GOOD), "rejected": whole(Q, BAD),
          "all_generated_responses": [GOOD, BAD], "all_rm_scores": [1.5, -2.0]}], ONCE,
    ),
    "RLHFlow standard": (
        [{"chosen": whole(Q, GOOD), "rejected": whole(Q, BAD), "chosen_score": 8.0,
          "rejected_score": 4.0}], ONCE,
    ),
    "orpo-dpo-mix-40k": (
        [{"source": "x", "chosen": whole(Q, GOOD), "rejected": whole(Q, BAD), "prompt": Q,
          "question": Q}], ONCE,
    ),
    "UltraInteract": (
        [{"task": "Coding", "dataset": "x", "trajectory": [human(Q)], "chosen": GOOD,
          "rejected": BAD, "id": "1", "parent_id": "0"}], ONCE,
    ),
    "CValues": (
        [{"prompt": Q, "pos_resp": GOOD, "neg_resp": BAD, "pos_type": "a", "neg_type": "b"}], ONCE,
    ),
    "TRL, explicit prompt": (
        [{"prompt": [user(Q)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}], ONCE,
    ),
    "TRL, implicit prompt": ([{"chosen": whole(Q, GOOD), "rejected": whole(Q, BAD)}], ONCE),
    "xtuner": (
        [{"prompt": [user(Q)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}], ONCE,
    ),
    "Axolotl chat_template": (
        [{"messages": [user(Q)], "chosen": assistant(GOOD), "rejected": assistant(BAD)}], ONCE,
    ),
    "Axolotl chatml.argilla": (
        [{"system": "", "instruction": Q, "chosen_response": GOOD, "rejected_response": BAD}], ONCE,
    ),
    "Axolotl chatml.icr": ([{"input": Q, "chosen": GOOD, "rejected": BAD}], ONCE),
    "LLaMA-Factory alpaca": (
        [{"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD}], ONCE,
    ),
    "LLaMA-Factory sharegpt": (
        [{"conversations": [human(Q)], "chosen": gpt(GOOD), "rejected": gpt(BAD)}], ONCE,
    ),
    "ms-swift messages": ([{"messages": whole(Q, GOOD), "rejected_response": BAD}], ONCE),
    "ms-swift rejected_messages": (
        [{"messages": whole(Q, GOOD), "rejected_messages": whole(Q, BAD)}], ONCE,
    ),
    "ms-swift query": (
        [{"query": Q, "response": GOOD, "rejected_response": BAD, "history": []}], ONCE,
    ),
    "ORPO on chatml_dpo_pairs": (
        [{"prompt": f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{Q}<|im_end|>\n"
                    "<|im_start|>assistant\n",
          "chosen": f"{GOOD}<|im_end|>\n", "rejected": f"{BAD}<|im_end|>\n"}], ONCE,
    ),
    "a prompt beside whole transcripts": (
        [{"prompt": Q, "chosen": f"<s>[INST] {Q} [/INST] {GOOD}</s>",
          "rejected": f"<s>[INST] {Q} [/INST] {BAD}</s>"}], ONCE,
    ),
    # A verdict.
    "SHP": (
        [{"post_id": "p", "domain": "d", "upvote_ratio": 0.9, "history": question,
          "c_root_id_A": "a", "c_root_id_B": "b", "created_at_utc_A": 1, "created_at_utc_B": 2,
          "score_A": 30 * label + 1, "score_B": 9, "human_ref_A": first, "human_ref_B": second,
          "labels": label, "seconds_difference": 1.0, "score_ratio": 2.0}
         for question, first, second, label in ((Q, GOOD, BAD, 1), (Q2, BAD2, GOOD2, 0))], BOTH,
    ),
    "HelpSteer2 preference": (
        [{"split": "train", "prompt": question, "response_1": first, "response_2": second,
          "preference_strength": strength, "preference_statement": "x",
          "preference_elaboration": "y", "three_most_similar_preferences": [],
          "all_preferences_unprocessed": []}
         for question, first, second, strength in
         ((Q, GOOD, BAD, -2), (Q2, BAD2, GOOD2, 1), (Q, BAD, "x", 0))], BOTH,
    ),
    "HelpSteer3 preference": (
        [{"domain": "general", "language": "english", "context": [user(question)],
          "response1": first, "response2": second, "overall_preference": strength,
          "individual_preference": [{"score": strength, "reasoning": "r", "feedback1": "f"}]}
         for question, first, second, strength in ((Q, GOOD, BAD, -3), (Q2, BAD2, GOOD2, 2))],
        BOTH,
    ),
    "PKU-SafeRLHF": (
        [{"prompt": question, "response_0": first, "response_1": second, "prompt_source": "p",
          "response_0_source": "m", "response_1_source": "m", "is_response_0_safe": False,
          "is_response_1_safe": True, "response_0_severity_level": 1,
          "response_1_severity_level": 0, "better_response_id": better, "safer_response_id": 1,
          "response_0_sha256": "s", "response_1_sha256": "t"}
         for question, first, second, better in ((Q, GOOD, BAD, 0), (Q2, BAD2, GOOD2, 1))], BOTH,
    ),
    "webgpt_comparisons": (
        [{"question": {"dataset": "eli5", "id": "1", "full_text": question},
          "quotes_0": {"title": [], "extract": []}, "answer_0": first,
          "tokens_0": {"prefix": [1], "completion": [2]}, "score_0": scores[0],
          "quotes_1": {"title": [], "extract": []}, "answer_1": second,
          "tokens_1": {"prefix": [1], "completion": [2]}, "score_1": scores[1]}
         for question, first, second, scores in
         ((Q, GOOD, BAD, (1.0, -1.0)), (Q2, BAD2, GOOD2, (-0.5, 0.5)), (Q, "a", "b", (0, 0)))],
        BOTH,
    ),
    "OffsetBias": (
        [{"instruction": question, "output_1": first, "output_2": second, "label": label}
         for question, first, second, label in ((Q, GOOD, BAD, 1), (Q2, BAD2, GOOD2, 2))], BOTH,
    ),
    "AlpacaFarm": (
        [{"instruction": question, "input": "", "output_1": first, "output_2": second,
          "preference": number, "raw_preference": 4}
         for question, first, second, number in ((Q, GOOD, BAD, 1), (Q2, BAD2, GOOD2, 2))], BOTH,
    ),
    "chatbot_arena_conversations": (
        [{"question_id": "1", "model_a": "m", "model_b": "n", "winner": winner, "judge": "j",
          "conversation_a": whole(question, first), "conversation_b": whole(question, second),
          "turn": 1, "anony": True, "language": "English", "tstamp": 1.0}
         for question, first, second, winner in
         ((Q, GOOD, BAD, "model_a"), (Q2, BAD2, GOOD2, "model_b"), (Q, "a", "b", "tie (bothbad)"),
          (Q, "a", "b", "tie"))], BOTH,
    ),
    "arena-human-preference-140k": (
        [{"id": "1", "model_a": "m", "model_b": "n", "winner": winner, "evaluation_order": 1,
          "conversation_a": [{"role": "user", "content": part(question)},
                             {"role": "assistant", "content": part(first)}],
          "conversation_b": [{"role": "user", "content": part(question)},
                             {"role": "assistant", "content": part(second)}],
          "is_code": False}
         for question, first, second, winner in
         ((Q, GOOD, BAD, "model_a"), (Q2, BAD2, GOOD2, "model_b"), (Q, "a", "b", "both_bad"))],
        BOTH,
    ),
    "LMSYS competition": (
        [{"id": 1, "model_a": "m", "model_b": "n", "prompt": json.dumps([question]),
          "response_a": json.dumps([first]), "response_b": json.dumps([second]),
          "winner_model_a": won[0], "winner_model_b": won[1], "winner_tie": won[2]}
         for question, first, second, won in
         ((Q, GOOD, BAD, (1, 0, 0)), (Q2, BAD2, GOOD2, (0, 1, 0)), (Q, "a", "b", (0, 0, 1)))],
        BOTH,
    ),
    "Preference-Collection": (
        [{"orig_criteria": "c", "orig_instruction": question, "orig_response_A": first,
          "orig_response_B": second, "orig_score_A": "1", "orig_score_B": "1",
          "orig_preference": side, "orig_feedback_A": "f", "orig_feedback_B": "g"}
         for question, first, second, side in ((Q, GOOD, BAD, "A"), (Q2, BAD2, GOOD2, "B"))], BOTH,
    ),
    "JudgeLM": (
        [{"question_body": question, "answer1_body": first, "answer2_body": second,
          "answer1_model_id": "m", "answer2_model_id": "n", "score": scores}
         for question, first, second, scores in
         ((Q, GOOD, BAD, [9, 2]), (Q2, BAD2, GOOD2, [1, 8]))], BOTH,
    ),
    "Argilla records": (
        [{"instruction": question, "response-1": first, "response-2": second,
          "preference": [{"user_id": "u", "value": side, "status": "submitted"}]}
         for question, first, second, side in
         ((Q, GOOD, BAD, "response-1"), (Q2, BAD2, GOOD2, "response-2"))], BOTH,
    ),
    "short letters": (
        [{"prompt": question, "A": first, "B": second, "winner": side}
         for question, first, second, side in
         ((Q, GOOD, BAD, "A"), (Q2, BAD2, GOOD2, "B"), (Q, "a a", "b b", "C"))], BOTH,
    ),
    "strength beside the verdict": (
        [{"prompt": question, "response_a": first, "response_b": second, "preferred": side,
          "preference_strength": 2}
         for question, first, second, side in ((Q, GOOD, BAD, "a"), (Q2, BAD2, GOOD2, "b"))], BOTH,
    ),
    "chosen names a response": (
        [{"prompt": question, "response_a": first, "response_b": second, "chosen": side,
          "rejected": other}
         for question, first, second, side, other in
         ((Q, GOOD, BAD, "response_a", "response_b"), (Q2, BAD2, GOOD2, "response_b", "response_a"))
         ], BOTH,
    ),
    "winner and loser are models": (
        [{"prompt": question, "response_a": first, "response_b": second, "model_a": "m",
          "model_b": "n", "winner": winner, "loser": loser}
         for question, first, second, winner, loser in
         ((Q, GOOD, BAD, "m", "n"), (Q2, BAD2, GOOD2, "n", "m"))], BOTH,
    ),
    # Ranked.
    "Nectar": (
        [{"prompt": f"\n\nHuman: {Q}\n\nAssistant: ",
          "answers": [{"answer": BAD, "model": "m", "rank": 7.0},
                      {"answer": GOOD, "model": "n", "rank": 1.0}],
          "turns": 1, "num_responses": 7, "source": ["x"], "good_natured": True}], ONCE,
    ),
    "UltraFeedback": (
        [{"source": "x", "instruction": Q, "models": ["m", "n"],
          "completions": [
              {"annotations": {"helpfulness": {"Rating": "1"}}, "custom_system_prompt": "s",
               "model": "m", "principle": "p", "response": BAD, "critique": "c",
               "fine-grained_score": 1.0, "overall_score": 2.0},
              {"annotations": {"helpfulness": {"Rating": "5"}}, "custom_system_prompt": "s",
               "model": "n", "principle": "p", "response": GOOD, "critique": "c",
               "fine-grained_score": 5.0, "overall_score": 9.0}],
          "correct_answers": ["None"], "incorrect_answers": ["None"]}], ONCE,
    ),
    "summarize_from_feedback": (
        [{"info": {"id": "t3", "post": question, "title": "T", "subreddit": "s", "site": None,
                   "article": None},
          "summaries": [{"text": first, "policy": "sup", "note": None},
                        {"text": second, "policy": "ref", "note": None}],
          "choice": choice, "worker": "w", "batch": "b", "split": "train",
          "extra": {"confidence": 9}}
         for question, first, second, choice in ((Q, GOOD, BAD, 0), (Q2, BAD2, GOOD2, 1))], BOTH,
    ),
    "RLHFlow with rewards": (
        [{"prompt": Q, "responses": [BAD, GOOD], "rewards": [-1.5, 2.5]}], ONCE,
    ),
    "distilabel ratings": (
        [{"instruction": Q, "generations": [BAD, GOOD], "ratings": [2, 5], "rationales": ["r"] * 2,
          "model_name": "m"}], ONCE,
    ),
    "comparison_gpt4_data_zh": (
        [{"instruction": "天空为什么是蓝色的?", "input": "", "output": ["散射。", "不知道。"]}],
        [("天空为什么是蓝色的?", "散射。", "不知道。")],
    ),
    "four numbered columns and the best": (
        [{"prompt": question, "response_0": "a", "response_1": good, "response_2": bad,
          "response_3": "d", "best_response": 1}
         for question, good, bad in ((Q, GOOD, BAD),)], [(Q, GOOD, "a")],
    ),
    # Labels.
    "kto-mix-14k": (
        [{"prompt": [user(Q)], "completion": [assistant(GOOD)], "label": True},
         {"prompt": [user(Q)], "completion": [assistant(BAD)], "label": False}], ONCE,
    ),
    "LLaMA-Factory kto": (
        [{"instruction": Q, "input": "", "output": GOOD, "kto_tag": True},
         {"instruction": Q, "input": "", "output": BAD, "kto_tag": False}], ONCE,
    ),
    "LLaMA-Factory kto_en_demo": (
        [{"messages": whole(Q, GOOD), "label": True}, {"messages": whole(Q, BAD), "label": False}],
        ONCE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("write", ["json lines", "json array", "parquet", "csv"])
@pytest.mark.parametrize("name", CASES)
def test_pairs_are_exactly_those_of_the_data(tmp_path, name, write):
    rows, expected = CASES[name]
    data = loaded(tmp_path, written(rows, write), name="data")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == expected
    report = data.report
    assert report.candidates == report.pairs + report.rows_dropped
    assert {drop.reason for drop in report.drops} <= {"tie"}


@pytest.mark.parametrize("change", ["reversed", "upper case", "title case", "more columns"])
@pytest.mark.parametrize("name", CASES)
def test_order_case_and_other_columns_do_not_matter(tmp_path, name, change):
    rows, expected = CASES[name]
    changed = {
        "reversed": lambda row: dict(reversed(row.items())),
        "upper case": lambda row: {key.upper(): value for key, value in row.items()},
        "title case": lambda row: {key.replace("_", " ").title(): row[key] for key in row},
        "more columns": lambda row: {**row, "notes": "a free text", "confidence": 3},
    }[change]
    data = loaded(tmp_path, written([changed(row) for row in rows], "json lines"), name="data")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == expected


def written(rows, write):
    header = list(rows[0])
    values = [tuple(row.values()) for row in rows]
    if write == "json lines":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if write == "json array":
        return json.dumps(rows, ensure_ascii=False)
    if write == "parquet":
        return parquet(values, header)
    return separated([[_cell(value) for value in row] for row in values], header)


def _cell(value):
    """A cell as pandas writes it: lists and objects as Python prints them."""
    return repr(value) if isinstance(value, list | dict) else value


REFUSED = {
    "OASST messages": (
        [{"message_id": "1", "parent_id": None, "text": Q, "role": "prompter", "rank": None},
         {"message_id": "2", "parent_id": "1", "text": GOOD, "role": "assistant", "rank": 0}],
        "It is a message tree",
    ),
    "OASST trees": (
        [{"message_tree_id": "1", "tree_state": "ready",
          "prompt": {"text": Q, "role": "prompter", "replies": [{"text": GOOD, "rank": 0}]}}],
        "It is a message tree",
    ),
    "Vicuna": (
        [{"id": "1", "conversations": [human(Q), gpt(GOOD)]}], "one response each",
    ),
    "Firefly conversations": (
        [{"conversation_id": 1, "conversation": [{"human": Q, "assistant": GOOD}]}] * 2,
        "one response each",
    ),
    "Alpaca": ([{"instruction": Q, "input": "", "output": GOOD}], "one response per row"),
    "BeaverTails": (
        [{"prompt": Q, "response": GOOD, "category": {"a": False}, "is_safe": True}],
        "rated by “is_safe”",
    ),
    "HelpSteer": (
        [{"prompt": Q, "response": GOOD, "helpfulness": 3, "correctness": 4}],
        "rated by “helpfulness”",
    ),
    "text classes": ([{"text": GOOD, "label": 1}, {"text": BAD, "label": 0}], "no"),
    "no verdict": (
        [{"prompt": Q, "response_a": GOOD, "response_b": BAD}], "no column says which is better",
    ),
    "winners with unknown names": (
        [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": "gpt-4", "loser": "phi"}],
        "does not show whether",
    ),
    "a label of 0 and 1 beside a and b": (
        [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "label": 1},
         {"prompt": Q2, "response_a": BAD2, "response_b": GOOD2, "label": 0}], "holds 0, 1",
    ),
    "a strength without a sign": (
        [{"prompt": Q, "response_1": GOOD, "response_2": BAD, "preference_strength": 2}],
        "holds 2",
    ),
    "a choice that counts from 0 or 1": (
        [{"prompt": Q, "responses": [GOOD, BAD, "c"], "choice": 1}], "count from 0 or from 1",
    ),
    "a verdict without a prompt": (
        [{"response_a": GOOD, "response_b": BAD, "winner": "a"}], "No column is the prompt",
    ),
    "a ranking without a prompt": (
        [{"responses": [GOOD, BAD], "scores": [2, 1]}] * 2, "No column is the prompt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("write", ["json lines", "csv"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_states_no_clear_preference_is_refused_by_name(tmp_path, name, write):
    rows, fact = REFUSED[name]
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, written(rows, write), name="data")
    assert fact in caught.value.message
    assert caught.value.hint
