from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from layerwise.data.config import DatasetConfig
from layerwise.data.generators.catalogue import BUNDLED, generate
from layerwise.data.generators.numbers import in_words
from layerwise.data.generators.tables import listed, read_table
from layerwise.data.load import load_dataset
from layerwise.data.splits import folds, train_test
from layerwise.errors import UserError

ALL = [f"{name}:{variety}" for name, varieties in BUNDLED.items() for variety in varieties]


@pytest.mark.parametrize("name", ALL)
def test_every_bundled_dataset_is_large_balanced_distinct_and_the_same_each_time(name):
    data = generate(name)
    assert len(data) >= 600
    assert len(set(np.bincount(data.labels))) == 1
    assert len(set(data.texts)) == len(data)
    stop = "" if name == "grammar:subject" else r"\."  # which ends before its verb
    assert all(re.fullmatch(rf"[A-Z].*[a-z]{stop}", text) for text in data.texts)
    assert generate(name).digest() == data.digest()
    assert len({generate(other).digest() for other in BUNDLED}) == len(BUNDLED)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith(("topics", "noise"))])
def test_counting_words_is_at_chance_on_held_out_groups(name):
    data = generate(name)
    development, test = train_test(data, 0.2, 0)
    words = CountVectorizer(token_pattern=r"[^\s.]+", lowercase=True)
    train = words.fit_transform([data.texts[row] for row in development])
    model = LogisticRegression(max_iter=500).fit(train, data.labels[development])
    score = model.score(words.transform([data.texts[row] for row in test]), data.labels[test])
    assert 0.45 <= score <= 0.55


@pytest.mark.parametrize("name", ["cities", "numbers", "grammar", "noise:grouped"])
def test_five_grouped_folds_are_balanced(name):
    data = generate(name)
    fold = folds(data.labels, data.groups, 5, seed=0)[0]
    assert all(np.bincount(data.labels[fold == k]).tolist()[0] == (fold == k).sum() / 2 for k in range(5))


def test_every_city_is_true_once_and_false_once_and_every_country_as_often_true_as_false():
    data = generate("cities")
    table = {city: row["country"] for row in read_table("cities") for city in listed(row["cities"])}
    assert len(table) >= 320
    countries: dict[str, Counter] = defaultdict(Counter)
    for text, label in zip(data.texts, data.labels, strict=True):
        city, country = re.fullmatch(r"The city of (.+) is in (.+)\.", text).groups()
        assert (table[city] == country) == bool(label)
        assert city not in country
        assert country.removeprefix("the ") not in city
        countries[country][int(label)] += 1
    assert all(count[0] == count[1] for count in countries.values())


def test_no_city_and_no_country_is_in_two_groups():
    data = generate("cities")
    groups: dict[str, set[str]] = defaultdict(set)
    for text, group in zip(data.texts, data.groups, strict=True):
        for entity in re.fullmatch(r"The city of (.+) is in (.+)\.", text).groups():
            groups[entity].add(group)
    assert all(len(found) == 1 for found in groups.values())


def test_the_negated_form_has_the_opposite_labels_and_the_same_contrast_pairs():
    plain, negated = generate("cities"), generate("cities_negated")
    assert (plain.labels == 1 - negated.labels).all()
    assert plain.contrast == negated.contrast
    assert plain.contrast[0] == ("The city of Paris is in France.", "The city of Paris is not in France.")
    assert generate("cities:negated").digest() == negated.digest()


def test_the_span_of_a_city_statement_is_the_city():
    data = generate("cities")
    start, end = data.spans[2]
    assert data.texts[2][start:end] == "Lyon"


@pytest.mark.parametrize(
    ("number", "words"), [(1, "one"), (13, "thirteen"), (20, "twenty"), (51, "fifty-one"), (98, "ninety-eight")]
)
def test_numbers_in_words(number, words):
    assert in_words(number) == words


def test_number_comparisons_are_right_and_no_number_is_in_two_groups():
    data = generate("numbers")
    value = {in_words(number): number for number in range(100)}
    groups: dict[int, set[int]] = defaultdict(set)
    places: Counter = Counter()
    for text, label, group in zip(data.texts, data.labels, data.groups, strict=True):
        first, word, second = re.fullmatch(r"(\S+) is (larger|smaller) than (\S+)\.", text).groups()
        a, b = value[first.lower()], value[second]
        assert bool(label) == (a > b if word == "larger" else a < b)
        groups[a].add(int(group))
        groups[b].add(int(group))
        places["first", a] += 1 if label else -1
        places["second", b] += 1 if label else -1
    assert all(len(found) == 1 for found in groups.values())
    assert set(places.values()) == {0}


def test_grammar_sentences_are_what_their_labels_say():
    tense = dict(zip(generate("grammar:tense").texts, generate("grammar:tense").labels, strict=True))
    assert tense["The teacher near the nurse walked."] == 0
    assert tense["The teachers near the nurse walk."] == 1
    agreement = dict(zip(generate("grammar:agreement").texts, generate("grammar:agreement").labels, strict=True))
    assert agreement["The teacher near the nurses walk."] == 0
    assert agreement["The teachers near the nurse walk."] == 1
    number = dict(zip(generate("grammar:number").texts, generate("grammar:number").labels, strict=True))
    assert number["The teacher near the nurses walked."] == 0
    assert number["The teachers near the nurse will walk."] == 1
    subject = generate("grammar:subject")
    assert dict(zip(subject.texts, subject.labels, strict=True))["The teachers behind the nurse"] == 1
    words = [text[start:end] for text, (start, end) in zip(subject.texts, subject.spans, strict=True)]
    assert words == [text.split()[1] for text in subject.texts]


def test_noise_has_the_texts_of_cities_and_labels_of_its_seed():
    cities = generate("cities")
    drawn = [load_dataset(DatasetConfig("noise", seed=seed)) for seed in range(30)]
    assert all(data.texts == cities.texts and data.groups is None for data in drawn)
    assert len({data.digest() for data in drawn}) == 30
    assert load_dataset(DatasetConfig("noise", seed=3)).digest() == drawn[3].digest()
    agreement = np.array([(one.labels == two.labels).mean() for one, two in combinations(drawn, 2)])
    assert abs(agreement.mean() - 0.5) < 0.005
    assert agreement.std() == pytest.approx(0.5 / np.sqrt(740), rel=0.15)


def test_grouped_noise_is_balanced_in_every_group_of_cities():
    cities, data = generate("cities"), generate("noise:grouped", seed=5)
    assert (data.groups == cities.groups).all()
    assert all(data.labels[data.groups == group].mean() == 0.5 for group in np.unique(data.groups))
    inside = data.groups == data.groups[0]
    assert any((generate("noise:grouped", seed=seed).labels[inside] != data.labels[inside]).any() for seed in range(5))


def test_the_labels_of_noise_do_not_follow_the_split_of_the_same_seed():
    """Which statements of each label are held out must not hang on where they stand."""
    places = []
    for seed in range(60):
        data = generate("noise", seed=seed)
        _, test = train_test(data, 0.2, seed)
        places.append([test[data.labels[test] == label].mean() for label in (0, 1)])
    error = 740 / np.sqrt(12 * 74 * 60)
    assert np.mean(places, axis=0) == pytest.approx([369.5, 369.5], abs=4 * error)


def test_an_unknown_name_or_variety_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown dataset 'citis'. Did you mean 'cities'"):
        generate("citis")
    with pytest.raises(UserError, match=r"unknown variety of grammar 'tens'. Did you mean 'tense'"):
        generate("grammar:tens")
    with pytest.raises(UserError, match=r"Leave one of them out"):
        generate("grammar:tense", "number")
