from __future__ import annotations

import random
import time

import numpy as np
import pytest

from layerwise.probes.duplicates import near_duplicates


def sentences(n: int, seed: int, length: int = 12) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 9))) for _ in range(3000)]
    return [" ".join(rng.choice(words) for _ in range(length)) for _ in range(n)]


def jaccard(a: str, b: str) -> float:
    first, second = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (a, b))
    return len(first & second) / len(first | second)


def test_unrelated_texts_have_none():
    found = near_duplicates(sentences(300, 1), sentences(100, 2))
    assert found.share == 0
    assert found.to_frame([], []).empty


def test_exact_and_edited_copies_are_found_with_their_similarity():
    train = sentences(500, 1)
    edited = train[17].replace(train[17].split()[5], "changed")
    test = [*sentences(20, 2), train[42], edited]
    found = near_duplicates(train, test, threshold=0.6)
    assert found.pairs.tolist() == [[20, 42], [21, 17]]
    assert found.similarity[0] == 1
    assert found.similarity[1] == pytest.approx(jaccard(train[17], edited))
    assert found.share == pytest.approx(2 / 22)
    frame = found.to_frame(train, test)
    assert frame["similarity"].is_monotonic_decreasing
    assert frame["train_text"].tolist() == [train[42], train[17]]


def test_case_spaces_and_final_punctuation_do_not_count():
    found = near_duplicates(
        ["The city of Paris is in France."], ["the city  of paris is in France", "Rome is in Italy"]
    )
    assert found.pairs.tolist() == [[0, 0]]
    assert found.similarity.tolist() == [1]


def test_templates_alone_are_not_duplicates():
    """Short statements of one template share most characters; a threshold of 0.8 must tell them apart."""
    train = [f"The city of {city} is in {country}." for city, country in (("Rome", "Italy"), ("Madrid", "Spain"))]
    assert near_duplicates(train, ["The city of Johannesburg is in South Africa."]).share == 0


def test_nearly_all_pairs_over_the_threshold_are_found():
    rng = random.Random(0)
    train = sentences(400, 3, length=25)
    test = []
    for text in train:
        words = text.split()
        words[rng.randrange(len(words))] = "zzz"
        test.append(" ".join(words))
    expected = [jaccard(a, b) >= 0.85 for a, b in zip(train, test, strict=True)]
    found = near_duplicates(train, test, threshold=0.85)
    assert len(found.pairs) >= 0.98 * sum(expected)
    assert (found.pairs[:, 0] == found.pairs[:, 1]).all()


def test_one_pair_per_test_text_the_first_of_equals():
    found = near_duplicates(["same text here", "same text here", "another one entirely"], ["same text here"])
    assert found.pairs.tolist() == [[0, 0]]


def test_short_and_empty_texts():
    found = near_duplicates(["", "ab", "…"], ["", "ab", "cd"])
    assert found.pairs.tolist() == [[0, 0], [1, 1]]
    assert np.isnan(near_duplicates(["a"], []).share)
    assert near_duplicates([], ["a"]).share == 0


def test_it_is_the_same_every_time_and_fast():
    train, test = sentences(1500, 1), sentences(500, 2)
    start = time.perf_counter()
    first = near_duplicates(train, test + train[:50])
    assert time.perf_counter() - start < 15  # 0.4 s on an idle core
    assert len(first.pairs) == 50
    assert np.array_equal(first.pairs, near_duplicates(train, test + train[:50]).pairs)
