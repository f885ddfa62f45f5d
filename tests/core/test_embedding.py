"""The text of an example that is embedded."""

from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.core.data.examples import read_alpaca
from s2l_ray.core.data.turns import prompt_text
from s2l_ray.core.embedding import text_to_embed

# parts of the Alpaca template and of its fields
TEXTS = st.lists(st.sampled_from(["Add", " ", "\n\n", "2 and 3", "### Response:", "{input}", "Instruction:"])).map(
    "".join
)


@given(TEXTS, TEXTS, TEXTS)
def test_alpaca_rows_become_the_text_of_the_official_code(instruction: str, context: str, response: str) -> None:
    """dheeraj7596/Small2Large, clustering.py."""
    row = {"instruction": instruction, "input": context, "output": response + "."}
    official = (
        f"Instruction: {(row['instruction'].strip() + ' ' + row['input'].strip()).strip()} "
        f"Response: {row['output'].strip()}"
    )
    prompt = prompt_text(read_alpaca(row, {}))
    assert text_to_embed(prompt, response + ".", "instruction_response") == official


def test_one_side_of_an_example() -> None:
    prompt = prompt_text(read_alpaca({"instruction": "Add\n", "input": " 2 and 3", "output": "5"}, {}))
    assert text_to_embed(prompt, " 5\n", "prompt") == "Add 2 and 3"
    assert text_to_embed(prompt, " 5\n", "response") == "5"
    assert text_to_embed("### Instruction:\nAdd", "5", "prompt") == "### Instruction:\nAdd"
