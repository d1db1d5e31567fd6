"""What is read as the result of an answer, each case by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tosslm.evaluation.gsm8k import final_number
from tosslm.evaluation.utility import exact_matches


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### **12**", "12"),
        ("#### __12__", "12"),
        ("####\n12", "12"),
        ("####: 12", "12"),
        ("#### 12.", "12"),
        ("#### 12. That is a dozen.", "12"),
        ("#### 12 eggs", "12"),
        ("#### (12)", "12"),
        ("#### $1,234.50", "1234.50"),
        ("#### **$1,234.50**", "1234.50"),
        ("#### €5", "5"),
        ("#### US$5", "5"),
        ("#### 1 234", "1234"),
        ("#### 1\u00a0234", "1234"),
        ("#### 1\u2009234\u2009567.5", "1234567.5"),
        ("#### 1\u202f234", "1234"),
        ("#### 12%", "12"),
        (r"#### 12\%", "12"),
        ("#### 1/2", "0.5"),
        ("#### 1 1/2", "1.5"),
        ("#### -1/4", "-0.25"),
        ("#### -7", "-7"),
        ("#### \u22127", "-7"),
        ("#### -$7", "-7"),
        ("#### $-7", "-7"),
        ("#### **-7**", "-7"),
        ("#### +7", "7"),
        ("#### .5", "0.5"),
        ("#### 3 + 4 = 7", "7"),
        ("#### x = 12", "12"),
        ("#### 12 (since 3 * 4 = 12, and 5 = 5)", "12"),
        ("#### Step 1\nadd 3 and 4\n#### 7", "7"),
    ],
)
def test_a_marked_result(text: str, number: str) -> None:
    assert final_number(f"She has 99 eggs.\n{text}") == Decimal(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"so it is \boxed{12}.", "12"),
        (r"\[\boxed{\$1{,}234.50}\]", "1234.50"),
        (r"\boxed{1\,234}", "1234"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{12 \text{ eggs}}, for 3 = 3", "12"),
        (r"\boxed{\text{12}}", "12"),
        (r"\boxed{12\%}", "12"),
        (r"\boxed{x = -12}", "-12"),
        (r"#### $\boxed{12}$", "12"),
        (r"\boxed{12} #### 13", "12"),
        (r"\boxed{", None),
    ],
)
def test_a_boxed_result_is_a_marked_one(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    "result",
    [
        "10-15",
        "10 - 15",
        "10\u201315",
        "$10-$15",
        "10% - 15%",
        "10 to 15",
        "10 or 15",
        "10, 15",
        "**10**-**15**",
        "3 + 4",
        "3*4",
        "3 x 4",
        "12:30",
        "1.234.567",
        "5 2 apples",
        "1/0",
        "1/2/2024",
    ],
)
def test_what_is_no_single_number_is_no_result_and_the_mark_is_spent(result: str) -> None:
    assert final_number(f"#### {result}") is None
    assert final_number(f"#### {result}\n#### 15") is None
    solutions = ["#### 10", "#### 15", "#### 3", "#### 4", "#### 12", "#### 7"]
    assert not exact_matches([f"#### {result}"] * len(solutions), solutions).any()


@pytest.mark.parametrize(
    "turn",
    [
        "\nQuestion: Tom has 7 cars. How many? #### 7",
        "\n\nQ: How many? A: 7 #### 7",
        "\nQuestion 2: How many?\n#### 7",
        "\n**Question:** How many?\n#### 7",
        "\n### Instruction:\nCount. #### 7",
        "\nHuman: and now?\n\nAssistant: #### 7",
        "\nuser: and now? #### 7",
        "<|im_end|>\n<|im_start|>user\nTom has 7 cars.<|im_end|>\n<|im_start|>assistant\n#### 7",
        "<|im_start|>user\n#### 7",
        "<|endoftext|>#### 7",
        "</s> [INST] How many? [/INST] #### 7",
        "<end_of_turn>\n<start_of_turn>user\n#### 7",
    ],
)
def test_a_made_up_turn_is_not_read(turn: str) -> None:
    assert final_number("2 + 3 = 5\n#### 5" + turn) == 5
    assert final_number("2 + 3 = 5" + turn) is None
    assert final_number("2 + 3 = 5" + turn, marked=False) == 5


def test_the_turn_that_an_answer_begins_with_is_its_own() -> None:
    assert final_number("<|im_start|>assistant\n#### 5<|im_end|>") == 5
    assert final_number("Question: how many?\nAnswer: #### 5") == 5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has **12**.", "12"),
        ("It costs $1,234.50.", "1234.50"),
        ("It costs 1\u202f234 in all.", "1234"),
        ("Of 3 classes, 2 100 m runners each", "100"),
        ("That is 12%.", "12"),
        ("so 8/2 = 4", "4"),
        ("that leaves 1/2", "0.5"),
        ("it falls to -7 degrees", "-7"),
        ("x-7", "7"),
        ("(3)-7", "7"),
        ("it is $-7", "-7"),
        ("between 10-15 eggs", None),
        ("from $10\u2013$15", None),
        ("10-15, so at most 15", "15"),
        (r"it is \(\frac{3}{4}\)", "0.75"),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert final_number(text, marked=False) == (None if number is None else Decimal(number))
