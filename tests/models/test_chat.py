"""Chat templates are found, framed and refused for what they do."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from layerwise.errors import UserError
from layerwise.models.chat import chat_frame
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model

PLAIN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


def test_frame_round_a_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    frame = chat_frame(tiny_tokenizer, PLAIN, "Be brief.")
    assert (frame.prefix, frame.suffix, frame.trims) == ("[system] Be brief.\n[user] ", "\n[assistant]", False)
    assert frame.render(" x ") == ("[system] Be brief.\n[user]  x \n[assistant]", len(frame.prefix))
    trimmed = chat_frame(tiny_tokenizer, PLAIN.replace("m['content']", "m['content'] | trim"), None)
    assert trimmed.render(" x ")[0] == "[user] x\n[assistant]"
    assert trimmed.shift("  x ") == 2


def test_template_from_a_file_and_of_the_tokenizer(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(PLAIN)
    expected = chat_frame(tiny_tokenizer, PLAIN, None)
    assert chat_frame(tiny_tokenizer, str(tmp_path / "own.jinja"), None) == expected
    tiny_tokenizer.chat_template = PLAIN
    try:
        assert chat_frame(tiny_tokenizer, True, None) == expected
    finally:
        tiny_tokenizer.chat_template = None


def test_model_loaded_with_a_template_and_a_system_prompt(tiny_model_folder: Path) -> None:
    template = "{{ bos_token }} {{ messages[0]['content'] }} : {{ messages[1]['content'] }} is"
    config = ModelConfig(name=str(tiny_model_folder), chat_template=template, system_prompt="good dog")
    model = load_model(config)
    tokens = model.tokenize(["a cat"])
    assert model.tokenizer.convert_ids_to_tokens(tokens.ids[0].tolist()) == [
        "<s>",
        "good",
        "dog",
        "<unk>",
        "a",
        "cat",
        "is",
    ]
    assert tokens.need_offsets()[0].tolist()[4:6] == [[0, 1], [2, 5]]
    assert tokens.special[0].tolist() == [True] * 4 + [False, False, True]


@pytest.mark.parametrize(
    ("template", "system", "said"),
    [
        (True, None, "this tokenizer has no template"),
        ("nowhere.jinja", None, r"no file nowhere\.jinja"),
        ("yes", None, "neither true, a .jinja file, nor a Jinja template"),
        (
            "{{ messages[0]['content'] }} {{ messages[0]['content'] }}",
            None,
            r"repeats or leaves out the user's text \(2 times",
        ),
        ("{{ messages[0]['role'] }}", None, r"\(0 times"),
        ("{{ messages[0]['content'] | replace('\n', ' ') }}", None, "rewrites the user's text"),
        ("{{ messages[-1]['content'] }}", "Be brief.", "no place for a system prompt"),
        (
            "{{ raise_exception('System role not supported') }}",
            "Be brief.",
            "cannot be rendered: System role not supported",
        ),
        ("{{ messages[0]['content'", None, "cannot be rendered"),
    ],
)
def test_templates_that_do_not_serve(
    tiny_tokenizer: PreTrainedTokenizerFast, template: bool | str, system: str | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        chat_frame(tiny_tokenizer, template, system)


def test_chat_without_a_tokenizer(shared: Path) -> None:
    with pytest.raises(UserError, match="has no tokenizer, which a chat template needs"):
        load_model(ModelConfig(name=str(shared / "models" / "gpt-nano-sort"), chat_template=True))
