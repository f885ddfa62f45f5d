"""docs/job.md: current, and complete."""

from s2l_ray.config.sections import Config
from tests.config.job_reference import PAGE, page


def test_the_page_is_that_of_the_config_classes() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.config.job_reference"


def test_every_key_of_a_job_is_on_the_page() -> None:
    job = {
        "root": "root",
        "run": "run",
        "data": {"sources": [{"path": "rows"}], "tokenizer": "tokenizer"},
        "proxy": {"model": "model"},
        "select": {"budget": 1},
    }
    text = page()
    for name, section in Config.model_validate(job).model_dump(mode="json").items():
        for key in section if isinstance(section, dict) else [name]:
            assert f"| `{key}` |" in text, f"{name}.{key}"
