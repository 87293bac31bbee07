"""The answers of each task against what plain Python says of the same prompt."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from layerwise.data.tasks.base import Sample
from layerwise.data.tasks.equality import hierarchical_equality
from layerwise.data.tasks.registry import make_task
from layerwise.errors import UserError


def samples(name: str, count: int = 200, **options: object) -> Iterator[tuple[str, str]]:
    task = make_task(name, options)
    for index in range(count):
        sample = task.sample(5, index)
        yield task.text(sample.prompt), task.text(sample.answer)


def in_order(text: str) -> str:
    return " ".join(str(number) for number in sorted(int(word) for word in text.split()))


def counts(text: str) -> str:
    return " ".join(str(text.count(letter)) for letter in text.split())


def counts_of_counts(text: str) -> str:
    every = Counter(text.split())
    return " ".join(str(sum(every[other] == every[letter] for other in every)) for letter in text.split())


def recalled(text: str) -> str:
    pairs, asked = text.split(" ? ")
    words = pairs.split()
    return dict(zip(words[::2], words[1::2], strict=True))[asked]


@pytest.mark.parametrize(
    ("name", "mark", "expected"),
    [
        ("copy", ">", str),
        ("masked_copy", ">", str),
        ("reverse", ">", lambda text: "".join(reversed(text))),
        ("sort", ">", lambda text: "".join(sorted(text))),
        ("number_sort", ">", in_order),
        ("histogram", " >", counts),
        ("double_histogram", " >", counts_of_counts),
        ("long_addition", "=", lambda text: str(eval(text))),
        ("modular_arithmetic", " =", lambda text: str(eval(text) % 97)),
        ("associative_recall", "", recalled),
        ("hierarchical_equality", " =", lambda text: str((len({*text.split()[:2]}) == 1) == (len({*text.split()[2:]}) == 1)).lower()),
    ],
)  # fmt: skip
def test_answers(name: str, mark: str, expected: Callable[[str], str]) -> None:
    for prompt, answer in samples(name):
        assert prompt.endswith(mark)
        assert answer == expected(prompt.removesuffix(mark))


class TestArithmetic:
    def test_a_sum_from_its_last_digit(self) -> None:
        for prompt, answer in samples("long_addition", smallest_first=True):
            assert int(answer[::-1]) == eval(prompt.removesuffix("="))

    def test_lengths_count_digits_beyond_64_bits(self) -> None:
        digits = {
            len(number)
            for prompt, _ in samples("long_addition", min_length=28, max_length=30)
            for number in prompt.removesuffix("=").split("+")
        }
        assert digits == {28, 29, 30}

    @pytest.mark.parametrize("operation", ["subtract", "multiply"])
    def test_other_operations(self, operation: str) -> None:
        for prompt, answer in samples("modular_arithmetic", operation=operation, modulus=12):
            assert int(answer) == eval(prompt.removesuffix("=")) % 12

    def test_division_undoes_multiplication(self) -> None:
        for prompt, answer in samples("modular_arithmetic", operation="divide", modulus=13):
            first, _, second, _ = prompt.split()
            assert int(answer) * int(second) % 13 == int(first)

    def test_division_needs_a_prime(self) -> None:
        with pytest.raises(UserError, match=r"division needs a prime modulus, and 91 is divided by 7\."):
            make_task("modular_arithmetic", {"operation": "divide", "modulus": 91})

    @pytest.mark.parametrize("operation", ["add", "divide"])
    def test_every_pair_is_dealt_once(self, operation: str) -> None:
        task = make_task("modular_arithmetic", {"modulus": 7, "operation": operation})
        assert task.size is not None
        assert (
            len({task.sample(0, index).prompt for index in range(task.size)})
            == task.size
            == 7 * (7 - (operation == "divide"))
        )


class TestBrackets:
    def test_prompt_and_answer_cancel_to_nothing(self) -> None:
        for prompt, answer in samples("dyck", kinds=4, max_depth=5):
            text = prompt.removesuffix("=") + answer
            before = ""
            while text != before:
                before = text
                for pair in ("()", "[]", "{}", "<>"):
                    text = text.replace(pair, "")
            assert text == ""

    def test_no_more_are_open_than_stated_and_all_depths_occur(self) -> None:
        assert {len(answer) for _, answer in samples("dyck", max_depth=4)} == {1, 2, 3, 4}


class TestSequences:
    def test_a_fixed_source_goes_its_few_ways_evenly(self) -> None:
        follows: dict[str, Counter[str]] = {}
        for prompt, answer in samples("ngram", 2000, letters=5, branching=2):
            text = prompt + answer
            for first, second in itertools.pairwise(text):
                follows.setdefault(first, Counter())[second] += 1
        assert all(len(ways) == 2 for ways in follows.values())
        assert all(min(ways.values()) / ways.total() > 0.45 for ways in follows.values())

    def test_another_table_seed_is_another_source(self) -> None:
        one, other = make_task("ngram", {"table_seed": 1}), make_task("ngram", {"table_seed": 2})
        drawn = [one.sample(0, index) for index in range(20)]
        assert all(one.check(sample.prompt, sample.answer) for sample in drawn)
        assert not any(other.check(sample.prompt, sample.answer) for sample in drawn)

    def test_a_trigram_depends_on_two_letters(self) -> None:
        task = make_task("ngram", {"order": 3, "branching": 1, "letters": 6})
        ways: dict[tuple[str, ...], set[str]] = {}
        for index in range(300):
            said = (lambda sample: sample.prompt + sample.answer)(task.sample(0, index))
            for place in range(2, len(said)):
                ways.setdefault(said[place - 2 : place], set()).add(said[place])
        assert {len(found) for found in ways.values()} == {1}
        assert len({found.copy().pop() for pair, found in ways.items() if pair[1] == "a"}) > 1

    def test_a_fresh_source_is_read_off_the_sample(self) -> None:
        task = make_task("ngram", {"source": "fresh", "branching": 1, "letters": 6})
        drawn = [task.sample(0, index) for index in range(100)]
        assert all(task.check(sample.prompt, sample.answer) for sample in drawn)
        assert all(task.check(sample.prompt, task.solve(sample.prompt)) for sample in drawn)
        elsewhere = [task.check(one.prompt, other.answer) for one, other in itertools.pairwise(drawn)]
        assert sum(elsewhere) < 10

    def test_of_several_right_continuations_any_is_right(self) -> None:
        task = make_task("ngram")
        sample = task.sample(0, 0)
        assert task.solve(sample.prompt) != sample.answer
        assert task.check(sample.prompt, task.solve(sample.prompt))
        assert not task.check(sample.prompt, ("?",) * len(sample.answer))

    def test_induction_repeats_different_symbols_at_varying_distances(self) -> None:
        distances = set()
        for prompt, answer in samples("induction"):
            first = prompt.split()
            assert len(set(first[:-1])) == len(first) - 1
            assert first[-1] == first[0]
            assert answer.split() == first[1:-1]
            distances.add(len(first) - 1)
        assert distances == set(range(5, 21))


class TestEquality:
    def test_cases_and_answers_are_balanced(self) -> None:
        generator = np.random.default_rng(0)
        cases = Counter()
        for _ in range(4000):
            (w, x, y, z), answer = hierarchical_equality(generator, 5)
            assert answer == ((w == x) == (y == z))
            assert {w, x, y, z} <= set(range(5))
            cases[w == x, y == z] += 1
        assert len(cases) == 4
        assert all(900 < count < 1100 for count in cases.values())


class TestCopying:
    def test_of_a_share_of_masked_copies_the_prompt_counts(self) -> None:
        task = make_task("masked_copy", {"unmasked": 0.25})
        counted = [task.sample(0, index).prompt_counts for index in range(2000)]
        assert 0.2 < np.mean(counted) < 0.3
        assert not any(make_task("copy").sample(0, index).prompt_counts for index in range(50))


class TestLengths:
    @pytest.mark.parametrize(
        "name", ["copy", "sort", "histogram", "number_sort", "dyck", "induction", "associative_recall", "ngram"]
    )
    def test_every_length_and_no_other_is_drawn(self, name: str) -> None:
        task = make_task(name, {"min_length": 4, "max_length": 7})
        assert len({len(task.sample(0, index).prompt) for index in range(300)}) >= 4
        longer = make_task(name).of_length(25)
        found = {len(longer.sample(0, index).prompt) for index in range(50)}
        assert name == "number_sort" or len(found) == 1
        assert min(found) >= 25

    def test_a_task_without_lengths_says_so(self) -> None:
        with pytest.raises(UserError, match="samples of task 'hierarchical_equality' have no length"):
            make_task("hierarchical_equality").of_length(9)


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("coppy", {}, r"unknown task 'coppy'\. Did you mean 'copy'\?"),
            ("copy", {"max_lenght": 3}, r"max_lenght.*Did you mean 'max_length'\?"),
            ("copy", {"max_length": "long"}, "max_length.*accepts a whole number"),
            ("copy", {"min_length": 9, "max_length": 3}, "1 ≤ min_length ≤ max_length, got 9 and 3"),
            ("copy", {"letters": 27}, "letters must be 2 to 26, got 27"),
            ("masked_copy", {"unmasked": 2}, "unmasked must be between 0 and 1, got 2"),
            ("number_sort", {"digits": 0}, "digits must be at least 1, got 0"),
            ("modular_arithmetic", {"modulus": 1}, "modulus must be at least 2, got 1"),
            ("dyck", {"kinds": 5}, "kinds must be 1 to 4, got 5"),
            ("dyck", {"max_depth": 1}, "max_depth must be at least 2, got 1"),
            ("ngram", {"branching": 11}, r"branching must be 1 to letters \(10\), got 11"),
            ("ngram", {"order": 0}, "order must be at least 1, got 0"),
            ("ngram", {"order": 20}, "min_length must be at least 20, got 16"),
            ("induction", {"symbols": 10}, "symbols must be at least 20, got 10"),
            ("associative_recall", {"keys": 5}, "keys must be at least 10, got 5"),
            ("hierarchical_equality", {"symbols": 1}, "symbols must be at least 2, got 1"),
            ("nowhere.py:Mine", {}, "no file nowhere.py"),
            ("json.dumps", {}, "json.dumps is no task"),
        ],
    )  # fmt: skip
    def test_each_says_what_to_change(self, name: str, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            make_task(name, options)


OWN_TASK = """
from __future__ import annotations
from dataclasses import dataclass
from layerwise.data.tasks.base import Lengths, Sample, Task
from layerwise.data.tasks.registry import task

@task("first_letter")
@dataclass(frozen=True)
class FirstLetter(Lengths, Task):
    vocabulary = ("a", "b", ">")
    longest = property(lambda self: self.max_length + 2)
    difficulty = "one letter, always at the first place"

    def draw(self, generator):
        prompt = (*("ab"[i] for i in generator.integers(2, size=self.length(generator))), ">")
        return Sample(prompt, self.solve(prompt))

    def solve(self, prompt):
        return prompt[:1]
"""


def test_a_task_of_ones_own_is_a_class_in_a_file(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_TASK)
    task = make_task(f"{file}:FirstLetter", {"max_length": 4})
    sample = task.sample(0, 0)
    assert isinstance(sample, Sample)
    assert sample.answer == sample.prompt[:1]
    assert task.longest == 6
