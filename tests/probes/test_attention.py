from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from layerwise.errors import UserError
from layerwise.probes.attention import AttentionProbe
from layerwise.probes.neural import MLPProbe

WIDTH = 10


@pytest.fixture(scope="module")
def needle():
    """Texts of 3 to 20 tokens of noise; one token, marked on axis 0, carries the label on axis 1."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 21, size=400)
    texts = [rng.normal(size=(length, WIDTH)).astype(np.float32) * 2 for length in lengths]
    y, place = rng.integers(2, size=400), np.array([rng.integers(length) for length in lengths])
    for text, label, where in zip(texts, y, place, strict=True):
        text[:, 0] = 0
        text[where, 0], text[where, 1] = 6, 4 * label - 2
    return texts, y, place


@pytest.fixture(scope="module")
def fitted(needle):
    texts, y, _ = needle
    return AttentionProbe(learning_rate=2e-2).fit(texts[:300], y[:300])


def test_finds_the_token_that_matters_where_the_mean_drowns_it(fitted, needle):
    texts, y, place = needle
    mean = np.stack([text.mean(0) for text in texts])
    assert fitted.score(texts[300:], y[300:]) > 0.95
    assert MLPProbe(layers=1, learning_rate=2e-2).fit(mean[:300], y[:300]).score(mean[300:], y[300:]) < 0.85
    found = [weights[:, 0].argmax() for weights in fitted.attention(texts[300:])]
    assert np.mean(np.array(found) == place[300:]) > 0.95


def test_attention_sums_to_one_over_each_texts_own_tokens(fitted, needle):
    texts = needle[0][:70]
    weights = fitted.attention(texts)
    assert [w.shape for w in weights] == [(len(text), 1) for text in texts]
    np.testing.assert_allclose([w.sum() for w in weights], 1, atol=1e-5)


def test_contributions_of_tokens_add_up_to_the_output(needle):
    texts, y, _ = needle
    probe = AttentionProbe(heads=3, max_epochs=5, learning_rate=1e-2).fit(texts[:100], y[:100])
    sums = np.array([c.sum() for c in probe.contributions(texts)])
    rest = probe.decision_function(texts) - sums
    np.testing.assert_allclose(rest, rest[0], atol=1e-4)
    graded = AttentionProbe(task="regression", max_epochs=5).fit(texts, 100 + 7.0 * y)
    rest = graded.predict(texts) - [c.sum() for c in graded.contributions(texts)]
    np.testing.assert_allclose(rest, rest[0], atol=1e-3)


def test_one_text_alone_gets_what_it_gets_in_company(fitted, needle):
    texts = needle[0][:20]
    together = fitted.predict_proba(texts)
    alone = np.concatenate([fitted.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_token_activations_are_read_as_a_list_is(fitted, needle):
    texts = needle[0][:20]
    ragged = SimpleNamespace(values=np.concatenate(texts), offsets=np.cumsum([0, *map(len, texts)]))
    np.testing.assert_array_equal(fitted.predict_proba(ragged), fitted.predict_proba(texts))


def test_more_classes_and_saved_state(needle):
    texts, y, _ = needle
    classes = np.array(["a", "b", "c"])[y + (np.arange(400) % 2)]
    probe = AttentionProbe(heads=2, max_epochs=3).fit(texts, classes)
    again = AttentionProbe.from_state(*probe.state())
    np.testing.assert_array_equal(again.predict_proba(texts), probe.predict_proba(texts))
    assert probe.predict_proba(texts).shape == (400, 3)
    assert again.predict(texts).tolist() == probe.predict(texts).tolist()


def test_works_inside_scikit_learn(needle):
    texts, y, _ = needle
    search = GridSearchCV(AttentionProbe(max_epochs=2), {"heads": [1, 2]}, cv=2).fit(texts[:80], y[:80])
    assert search.best_params_["heads"] in (1, 2)
    assert clone(AttentionProbe(heads=4)).heads == 4


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((10, WIDTH)), "pooler 'none'"),
        ([np.zeros((2, WIDTH)), np.zeros((2, 3))], "of one width"),
        ([np.ones((2, WIDTH)), np.ones((0, WIDTH))], "text 1 has no tokens"),
        ([np.ones((2, WIDTH)), np.full((3, WIDTH), np.inf)], "row 2 of the features"),
        ([], "list of"),
    ],
)
def test_mistakes_are_told(X, message):
    with pytest.raises(UserError, match=message):
        AttentionProbe().fit(X, np.arange(len(X)) % 2)
    with pytest.raises(UserError, match="heads must be at least 1, got 0"):
        AttentionProbe(heads=0).fit([np.ones((2, 2))] * 4, [0, 1, 0, 1])
