"""Every task: samples depend on seed and index alone, answers are right in full or wrong, the stated sizes hold."""

from __future__ import annotations

import pytest

from layerwise.data.tasks.registry import make_task, task_names

TASKS = task_names()


@pytest.mark.parametrize("name", TASKS)
class TestEveryTask:
    def test_a_sample_depends_on_seed_and_index_alone(self, name: str) -> None:
        task, again = make_task(name), make_task(name)
        forwards = [task.sample(3, index) for index in range(20)]
        assert forwards == [again.sample(3, index) for index in reversed(range(20))][::-1]
        assert forwards != [task.sample(4, index) for index in range(20)]

    def test_its_own_answers_are_right_and_changed_ones_wrong(self, name: str) -> None:
        task = make_task(name)
        for index in range(50):
            sample = task.sample(0, index)
            assert task.check(sample.prompt, sample.answer)
            assert not task.check(sample.prompt, (*sample.answer, sample.answer[-1]))
            assert not task.check(sample.prompt, sample.answer[:-1])

    def test_samples_stay_within_the_vocabulary_and_the_stated_length(self, name: str) -> None:
        task = make_task(name)
        samples = [task.sample(1, index) for index in range(200)]
        assert {symbol for sample in samples for symbol in sample.prompt + sample.answer} <= set(task.vocabulary)
        assert len(set(task.vocabulary)) == len(task.vocabulary)
        assert max(len(sample.prompt + sample.answer) for sample in samples) <= task.longest

    def test_text_and_back(self, name: str) -> None:
        task = make_task(name)
        symbols = task.sample(0, 0).prompt + task.sample(0, 0).answer
        assert task.read(task.text(symbols)) == symbols

    def test_it_says_how_hard_it_is(self, name: str) -> None:
        assert len(make_task(name).difficulty.split()) > 8
