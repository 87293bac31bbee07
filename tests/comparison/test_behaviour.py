"""What a model does on items: the likelihoods by hand, choices, correctness, continuations, the store, models that are not torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from layerwise.activations.store import Store
from layerwise.comparison import kept
from layerwise.comparison.behaviour import KINDS
from layerwise.comparison.items import Items
from layerwise.comparison.scoring import Scorer, behave, continued
from layerwise.errors import UserError
from layerwise.interventions.plan import Plan
from layerwise.interventions.standing import under_plan
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel

CHOICES = Items(
    "choices",
    ("the city of paris is in", "the dog", "one two"),
    (("france", "italy", "the france"), ("runs", "sleeps"), ("three", "four and five", "three .")),
    truth=np.array([0, -1, 2]),
)
PLACES = Items("places", ("the _ runs .", "_ is in france"), (("dog", "cat"), ("paris", "rome")), placeholder="_")
TEXTS = Items("texts", ("the dog runs .", "a very good movie was not true"))


def log_p(model: LanguageModel, text: str) -> np.ndarray:
    """(tokens - 1,) of a text run alone: the beginning token is read, all others are scored."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy()


def test_likelihoods_of_statements_and_of_options_given_the_prompt(model: LanguageModel) -> None:
    behaviour = behave(model, CHOICES)
    assert (behaviour.model, behaviour.fingerprint, len(behaviour)) == (model.name, model.fingerprint, 3)
    for row, prompt in enumerate(CHOICES.prompts):
        before = len(prompt.split())
        for place, statement in enumerate(CHOICES.statements(row)):
            each = log_p(model, statement)
            assert behaviour.statement[row][place] == pytest.approx(each.sum(), abs=1e-5)
            assert behaviour.option[row][place] == pytest.approx(each[before:].sum(), abs=1e-5)
            assert behaviour.tokens[row][place] == len(each) - before
            assert behaviour.bytes[row][place] == len(CHOICES.options[row][place])
    per_token, per_byte = behaviour.scores("per_token"), behaviour.scores("per_byte")
    assert per_token[2][1] == pytest.approx(behaviour.option[2][1] / 3)
    assert per_byte[2][1] == pytest.approx(behaviour.option[2][1] / len("four and five"))


def test_a_placeholder_item_counts_all_from_the_placeholder_on(model: LanguageModel) -> None:
    behaviour = behave(model, PLACES)
    first, second = log_p(model, "the dog runs ."), log_p(model, "rome is in france")
    assert behaviour.option[0][0] == pytest.approx(first[1:].sum(), abs=1e-5)
    assert behaviour.statement[0][0] == pytest.approx(first.sum(), abs=1e-5)
    assert behaviour.option[1][1] == pytest.approx(second.sum(), abs=1e-5)
    assert behaviour.bytes[0].tolist() == [len("dog runs ."), len("cat runs .")]


def test_a_plain_text_is_scored_as_a_whole(model: LanguageModel) -> None:
    behaviour = behave(model, TEXTS)
    for row, text in enumerate(TEXTS.prompts):
        each = log_p(model, text)
        assert (
            behaviour.option[row].tolist() == behaviour.statement[row].tolist() == [pytest.approx(each.sum(), abs=1e-5)]
        )
        assert (behaviour.tokens[row].tolist(), behaviour.bytes[row].tolist()) == ([len(each)], [len(text)])


@pytest.mark.parametrize("token_budget", [1, 13, 4096])
def test_neither_the_batch_size_nor_the_order_of_items_changes_a_number(
    model: LanguageModel, token_budget: int
) -> None:
    expected, order = behave(model, CHOICES), [2, 0, 1]
    again = behave(model, CHOICES.select(order), token_budget=token_budget)
    for kind in KINDS:
        for place, row in enumerate(order):
            np.testing.assert_allclose(again.scores(kind)[place], expected.scores(kind)[row], atol=1e-5, rtol=0)


def test_choices_and_what_is_right(model: LanguageModel) -> None:
    behaviour = behave(model, CHOICES)
    for kind in KINDS:
        likeliest = [int(np.argmax(row)) for row in behaviour.scores(kind)]
        assert behaviour.choices(kind).tolist() == likeliest
        expected = [float(likeliest[0] == 0), np.nan, float(likeliest[2] == 2)]
        np.testing.assert_array_equal(behaviour.correct(CHOICES, kind), expected)
    assert behave(model, TEXTS).choices().tolist() == [-1, -1]


def test_one_option_is_right_where_the_model_would_write_it(model: LanguageModel) -> None:
    prompt = "the city of paris is in france and"
    plain = Items("prompts", (prompt,), (("a", "the"),))
    [written] = continued(behave(model, plain), model, plain, max_new_tokens=1).continuations or ()
    other = "dog" if written.strip() != "dog" else "cat"
    items = Items("lambada", (prompt, prompt), ((written.strip(),), (other,)), truth=np.array([0, 0]))
    assert behave(model, items).correct(items).tolist() == [1.0, 0.0]


def test_selecting_keeps_the_items_scores(model: LanguageModel) -> None:
    behaviour = continued(behave(model, CHOICES), model, CHOICES, max_new_tokens=2)
    for rows in ([2, 0], np.array([True, False, True])):
        chosen = behaviour.select(rows)
        assert len(chosen) == 2
        assert sum(map(len, chosen.option)) == 6
        assert chosen.continuations is not None
    with pytest.raises(UserError, match="was scored on 2 items, and 'choices' are 3"):
        chosen.correct(CHOICES)
    with pytest.raises(UserError, match="has 3 scores for item 0, which has 2 options"):
        behaviour.need(Items("other", ("a", "b", "c"), (("x", "y"),) * 3))
    with pytest.raises(UserError, match=r"unknown kind of score 'token'\. Did you mean 'per_token'\?"):
        behaviour.scores("token")


def test_a_chat_template_and_its_system_prompt_frame_the_prompt(tiny_model_folder: Path) -> None:
    template = "{{ bos_token }} {{ messages[0]['content'] }} . {{ messages[1]['content'] }} ."
    plain = load_model(str(tiny_model_folder))
    chat = load_model(ModelConfig(name=str(tiny_model_folder), chat_template=template, system_prompt="good dog"))
    behaviour = behave(chat, CHOICES)
    ids = torch.tensor([[2, *plain.tokenizer("good dog . the dog . runs", add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        each = plain.module(input_ids=ids).logits[0].double().log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    assert behaviour.option[1][0] == pytest.approx(float(each[-1]), abs=1e-5)
    # Of the statement, what the template adds is read and not scored: "the dog" and "runs" are left.
    assert behaviour.statement[1][0] == pytest.approx(float(each[[3, 4, 6]].sum()), abs=1e-5)
    with torch.no_grad():
        likeliest = int(plain.module(input_ids=ids[:, :-1]).logits[0, -1].argmax())
    [_, written, _] = continued(behaviour, chat, CHOICES, max_new_tokens=1).continuations or ()
    assert written == plain.tokenizer.decode([likeliest], skip_special_tokens=True)
    with pytest.raises(UserError, match="items 'places' have a placeholder inside their prompts, so no answer follows"):
        behave(chat, PLACES)


def test_an_encoder_decoder_reads_the_prompt_and_is_asked_for_the_option(tiny_tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tiny_tokenizer), d_model=16, d_kv=4, num_heads=4, d_ff=16, num_layers=2, decoder_start_token_id=0,
        eos_token_id=3, initializer_factor=5.0,
    )  # fmt: skip
    model = LanguageModel(T5ForConditionalGeneration(config).eval(), tiny_tokenizer, "t5")
    behaviour = behave(model, CHOICES)
    for row, prompt in enumerate(CHOICES.prompts):
        for place, option in enumerate(CHOICES.options[row]):
            labels = torch.tensor([tiny_tokenizer(option, add_special_tokens=False)["input_ids"]])
            source = torch.tensor([tiny_tokenizer(prompt)["input_ids"]])
            with torch.no_grad():
                loss = model.module(input_ids=source, labels=labels).loss
            assert behaviour.option[row][place] == pytest.approx(-float(loss) * labels.numel(), abs=1e-4)
            assert behaviour.tokens[row][place] == labels.numel()
    assert [list(row) for row in behaviour.statement] == [list(row) for row in behaviour.option]
    texts = continued(behaviour, model, CHOICES, max_new_tokens=3).continuations or ()
    for prompt, written in zip(CHOICES.prompts, texts, strict=True):
        source = torch.tensor([tiny_tokenizer(prompt)["input_ids"]])
        ids = model.module.generate(input_ids=source, max_new_tokens=3, do_sample=False)  # type: ignore[operator]
        assert written == tiny_tokenizer.decode(ids[0], skip_special_tokens=True)


def test_an_altered_model_is_scored_as_it_is_altered(model: LanguageModel) -> None:
    with under_plan(model, Plan.read("{steps: [{operation: zero, sites: 'mlp_out.*'}]}"), "without its MLPs") as silent:
        altered, plain = behave(silent, CHOICES), behave(model, CHOICES)
        written = continued(altered, silent, CHOICES, max_new_tokens=4).continuations
    assert altered.fingerprint != plain.fingerprint
    assert np.abs(altered.option[0] - plain.option[0]).max() > 1e-3
    hooks = [block.mlp.register_forward_hook(lambda *args: torch.zeros_like(args[-1])) for block in model.body.layers]  # type: ignore[union-attr]
    try:
        by_hand = behave(model, CHOICES)
        texts = continued(by_hand, model, CHOICES, max_new_tokens=4).continuations
    finally:
        for hook in hooks:
            hook.remove()
    for ours, theirs in zip(altered.option, by_hand.option, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert written == texts


# -- the store


def counting(model: LanguageModel) -> list[int]:
    """Grows by one for each forward of the model."""
    forwards: list[int] = []
    model.module.register_forward_hook(lambda *arguments: forwards.append(1))
    return forwards


@pytest.fixture
def own(tiny_model_folder: Path) -> LanguageModel:
    return load_model(str(tiny_model_folder))


def same(left: Any, right: Any) -> None:
    for kind in KINDS:
        for ours, theirs in zip(left.scores(kind), right.scores(kind), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_no_item_is_scored_twice_whatever_set_it_is_in(own: LanguageModel, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = behave(own, CHOICES.select([0, 1]), store=store)
    forwards = counting(own)
    same(behave(own, CHOICES.select([1, 0]), store=Store(tmp_path)).select([1, 0]), first)
    assert not forwards
    whole = behave(own, CHOICES, store=store)
    same(whole.select([0, 1]), first)
    assert forwards
    assert len(store.parts()) == 2
    assert set(whole.stored) == {part.key for part in store.parts()}
    assert all(part.manifest["info"] == {"model": own.name, "dataset": "choices"} for part in store.parts())
    assert sorted(sum(part.counts) for part in store.parts()) == [1, 2]  # what the store's list counts
    forwards.clear()
    same(behave(own, CHOICES, store=store), whole)
    continued(whole, own, CHOICES, max_new_tokens=3, store=store)
    seen = len(forwards)
    again = continued(whole, own, CHOICES, max_new_tokens=3, store=store)
    assert len(forwards) == seen > 0
    assert again.continuations == continued(whole, own, CHOICES, max_new_tokens=3).continuations
    assert len(again.stored) == 3


def test_two_models_and_two_settings_share_nothing(own: LanguageModel, twin: LanguageModel, tmp_path: Path) -> None:
    store = Store(tmp_path)
    ours, theirs = behave(own, CHOICES, store=store), behave(twin, CHOICES, store=store)
    assert not set(ours.stored) & set(theirs.stored)
    assert np.abs(ours.option[0] - theirs.option[0]).max() > 1e-3
    long, short = (continued(ours, own, CHOICES, max_new_tokens=n, store=store).continuations or () for n in (6, 2))
    assert len(long[0].split()) > len(short[0].split())


def test_damaged_scores_are_computed_again(own: LanguageModel, tmp_path: Path) -> None:
    store = Store(tmp_path)
    expected = behave(own, CHOICES, store=store)
    [part] = store.parts()
    file = part.folder / "00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    assert store.parts()[0].damaged() == [0]
    same(behave(own, CHOICES, store=store), expected)
    assert not store.parts()[0].damaged()
    shutil.rmtree(part.folder)
    same(behave(own, CHOICES, store=store), expected)


def test_what_was_scored_before_a_kill_is_kept(
    own: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "SHARD", 1)
    behave(own, CHOICES.select([0]))  # the first time it is tried whether texts can share a row
    forwards = counting(own)

    def dies(*arguments: Any) -> None:
        if len(forwards) == 3:
            raise KeyboardInterrupt

    handle = own.module.register_forward_hook(dies)
    with pytest.raises(KeyboardInterrupt):
        behave(own, CHOICES, store=Store(tmp_path))
    handle.remove()
    forwards.clear()
    resumed = behave(own, CHOICES, store=Store(tmp_path))
    assert len(forwards) == 1  # the third item alone
    for kind in KINDS:
        for ours, theirs in zip(resumed.scores(kind), behave(own, CHOICES).scores(kind), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_equal_items_are_scored_once(own: LanguageModel) -> None:
    doubled = Items("doubled", ("the dog", "the dog"), (("runs", "sleeps"),) * 2)
    behave(own, doubled)  # the first time it is tried whether texts can share a row
    forwards = counting(own)
    behaviour = behave(own, doubled)
    once = len(forwards)
    behave(own, doubled.select([0]))
    assert len(forwards) == 2 * once
    assert behaviour.option[0].tolist() == behaviour.option[1].tolist()


# -- models that are not torch


class Lengths:
    """A model that likes short options and says the prompt again."""

    name, fingerprint = "lengths", "0" * 64

    def option_log_likelihoods(self, items: Items) -> Sequence[Sequence[float]]:
        return [[-len(option) for option in options] for options in items.options]

    def continuations(self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str]) -> Sequence[str]:
        return [" ".join(prompt.split()[:max_new_tokens]) for prompt in prompts]


def test_a_model_of_another_kind_takes_part(tmp_path: Path) -> None:
    other = Lengths()
    assert isinstance(other, Scorer)
    store = Store(tmp_path)
    behaviour = continued(behave(other, CHOICES, store=store), other, CHOICES, max_new_tokens=2, store=store)
    assert behaviour.option[0].tolist() == [-6, -5, -10]
    assert behaviour.statement[0].tolist() == [-6, -5, -10]
    assert behaviour.choices().tolist() == [1, 0, 0]
    assert behaviour.scores("per_byte")[0].tolist() == [-1, -1, -1]
    assert behaviour.continuations == ("the city", "the dog", "one two")
    with pytest.raises(
        UserError, match="lengths does not tell how many tokens an option has: score per_byte, or option"
    ):
        behaviour.scores("per_token")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[-1.0, -2.0]], "broken gave likelihoods for 1 items of 2"),
        ([[-1.0, -2.0], [-1.0]], "broken must give item 1 2 log-likelihoods of at most 0"),
        ([[-1.0, 0.5], [-1.0, -1.0]], "broken must give item 0 2 log-likelihoods of at most 0"),
        ([[-1.0, float("nan")], [-1.0, -1.0]], "broken must give item 0"),
    ],
)
def test_what_another_kind_of_model_gives_is_checked(given: list[list[float]], message: str) -> None:
    class Broken(Lengths):
        name = "broken"

        def option_log_likelihoods(self, items: Items) -> Sequence[Sequence[float]]:
            return given

        def continuations(self, prompts: Sequence[str], **settings: Any) -> Sequence[str]:
            return ["one"]

    items = Items("two", ("a", "b"), (("x", "y"),) * 2)
    with pytest.raises(UserError, match=message):
        behave(Broken(), items)
    with pytest.raises(UserError, match="broken must give a text for each of 2 prompts, got 1"):
        continued(behave(Lengths(), items), Broken(), items)


# -- bad input


def test_a_likelihood_that_is_no_number_names_the_item(tiny_model_folder: Path) -> None:
    broken = load_model(str(tiny_model_folder))
    with torch.no_grad():
        broken.module.lm_head.weight[5] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(UserError, match="gives item 0 a likelihood that is not a number: 'the city of paris is in'"):
        behave(broken, CHOICES)


def test_what_cannot_be_scored_or_continued_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"reads 64 tokens, and a text has 71: 'dog dog"):
        behave(model, Items("long", ("dog " * 70,), (("runs", "sleeps"),)))
    with pytest.raises(UserError, match="items 'places' have a placeholder inside their prompts"):
        continued(behave(model, PLACES), model, PLACES)
