from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier

from layerwise.activations.collect import collect
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
from layerwise.probes.attention import AttentionProbe
from layerwise.probes.fitted import FittedProbe
from layerwise.probes.neural import MLPProbe

SITES = ["resid_post.0", "resid_post.1"]
NAMES = ("false", "true")
TEXTS = [f"{subject} is {verb} in {place}" for subject in ("paris", "rome", "the dog") for verb in ("", "not") for place in
         ("france", "italy", "spain", "england")]  # fmt: skip
LABELS = np.array([("not" in text) == ("france" in text) for text in TEXTS]).astype(int)


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_model(ModelConfig(name=str(tiny_model_folder), device="cpu"))


@pytest.fixture(scope="module")
def X(model):
    found = collect(model, TEXTS, SITES, ["mean"], progress=False)
    return {site: found.matrix(site) for site in SITES}


@pytest.fixture(scope="module")
def probe(model, X):
    estimator = LogisticRegression(C=100).fit(X[SITES[1]], LABELS)
    return FittedProbe.on(model, estimator, SITES[1], "mean", task="classification", label_names=NAMES)


def test_predicts_as_its_estimator_does_on_the_same_features(model, probe, X):
    found = probe.predict(TEXTS, model)
    expected = probe.estimator.predict_proba(X[SITES[1]])
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(found.scores, expected[:, 1], atol=1e-5)
    assert found.labels.tolist() == probe.estimator.predict(X[SITES[1]]).tolist()
    np.testing.assert_allclose(probe.features(TEXTS, model)[SITES[1]], X[SITES[1]], atol=1e-6)


def test_a_frame_names_labels_and_probabilities(model, probe):
    frame = probe.predict_frame(TEXTS[:3], model)
    assert list(frame.columns) == ["label", "score", "probability_false", "probability_true"]
    assert set(frame["label"]) <= set(NAMES)
    np.testing.assert_allclose(frame["probability_false"] + frame["probability_true"], 1)
    data = TextDataset("d", tuple(TEXTS[:3]))
    assert probe.predict_frame(data, model).equals(frame)


def test_the_threshold_decides_labels_and_only_labels(model, probe):
    scores = probe.predict(TEXTS, model).scores
    threshold = float(np.median(scores))
    found = replace(probe, threshold=threshold).predict(TEXTS, model)
    assert found.labels.tolist() == (scores > threshold).astype(int).tolist()
    np.testing.assert_array_equal(found.scores, scores)


def test_decision_values_have_probabilities_once_calibrated(model, probe, X):
    bare = replace(probe, estimator=RidgeClassifier().fit(X[SITES[1]], LABELS))
    found = bare.predict(TEXTS, model)
    assert found.probabilities is None
    assert list(bare.predict_frame(TEXTS[:2], model).columns) == ["label", "score"]
    calibrated = replace(bare, calibration=(3.0, -1.0)).predict(TEXTS, model)
    np.testing.assert_allclose(calibrated.scores, 1 / (1 + np.exp(1 - 3 * found.scores)))
    assert calibrated.labels.tolist() == found.labels.tolist()


def test_regression(model, X):
    target = 10 + X[SITES[0]][:, 0]
    probe = FittedProbe.on(model, Ridge(alpha=1e-4).fit(X[SITES[0]], target), SITES[0], "mean", task="regression")
    frame = probe.predict_frame(TEXTS, model)
    np.testing.assert_allclose(frame["label"], target, atol=1e-2)
    assert frame["label"].equals(frame["score"].rename("label"))


def test_a_class_missing_from_training_keeps_the_others_names(model, X):
    estimator = LogisticRegression().fit(X[SITES[0]], LABELS * 2)
    probe = FittedProbe.on(model, estimator, SITES[0], "mean", task="classification", label_names=("a", "b", "c"))
    frame = probe.predict_frame(TEXTS, model)
    assert list(frame.columns) == ["label", "score", "probability_a", "probability_c"]
    assert set(frame["label"]) == {"a", "c"}


@pytest.mark.parametrize("how", ["concat", "mean", "max", "min", "rows"])
def test_sites_are_joined_as_said(model, X, how):
    both = [X[site] for site in SITES]
    joined = {"concat": np.concatenate(both, axis=1), "rows": both[1]}.get(how)
    if joined is None:
        joined = getattr(np, how)(both, axis=0)
    estimator = LogisticRegression().fit(joined, LABELS)
    probe = FittedProbe.on(model, estimator, SITES, "mean", task="classification", label_names=NAMES, over_layers=how)
    np.testing.assert_allclose(probe.predict(TEXTS, model).probabilities, estimator.predict_proba(joined), atol=1e-5)


def test_attention_and_token_probes_read_tokens(model):
    tokens = collect(model, TEXTS, [SITES[0]], ["none"], progress=False).tokens(SITES[0])
    attention = FittedProbe.on(
        model,
        AttentionProbe(max_epochs=2).fit(tokens, LABELS),
        SITES[0],
        "none",
        task="classification",
        label_names=NAMES,
    )
    assert len(attention.predict_frame(TEXTS, model)) == len(TEXTS)
    single = MLPProbe(max_epochs=2).fit(tokens.values, np.arange(len(tokens.values)) % 2)
    probe = FittedProbe.on(model, single, SITES[0], "none", task="tokens", label_names=NAMES)
    frame = probe.predict_frame(["paris is", "rome"], model)
    assert frame["token"].tolist() == ["<s>", "paris", "is", "<s>", "rome"]
    assert frame["text"].tolist() == [0, 0, 0, 1, 1]
    found = collect(model, TEXTS, [SITES[0]], ["none@text"], progress=False).tokens(SITES[0])
    own = replace(
        probe, estimator=MLPProbe(max_epochs=1).fit(found.values, np.arange(len(found.values)) % 2), pooler="none@text"
    )
    assert own.predict_frame(["paris is", "rome"], model)["token"].tolist() == ["paris", "is", "rome"]


@pytest.mark.parametrize("estimator", [LogisticRegression(), MLPProbe(max_epochs=2)], ids=str)
def test_saved_and_loaded_it_is_the_same_probe(estimator, model, probe, X, tmp_path):
    full = replace(
        probe, estimator=estimator.fit(X[SITES[1]], LABELS), threshold=0.4, thresholds={"accuracy": 0.4, "f1": np.float64(0.3)},
        calibration=(1.5, -0.5), max_length=20,
    )  # fmt: skip
    full.save(tmp_path / "probe")
    again = FittedProbe.load(tmp_path / "probe", model)
    assert again.predict_frame(TEXTS, model).equals(full.predict_frame(TEXTS, model))
    for name in (
        "sites",
        "pooler",
        "task",
        "label_names",
        "threshold",
        "thresholds",
        "calibration",
        "model_name",
        "max_length",
    ):
        assert getattr(again, name) == getattr(full, name), name
    assert again.model_fingerprint == model.fingerprint
    names = {path.name for path in (tmp_path / "probe").rglob("*") if path.is_file()}
    assert not any(name.endswith((".pkl", ".pickle", ".joblib", ".pt", ".bin")) for name in names)


def test_the_language_model_is_found_again(probe, tmp_path):
    probe.save(tmp_path / "probe")
    again = FittedProbe.load(tmp_path / "probe")
    model = again.load_model(device="cpu")
    assert len(again.predict(TEXTS, model).labels) == len(TEXTS)


def test_another_model_is_refused(probe, tiny_model_folder, tmp_path):
    twin = load_model(ModelConfig(name=str(tiny_model_folder), random_init=True, random_seed=5, device="cpu"))
    for use in (probe.predict, probe.features, probe.predict_frame):
        with pytest.raises(UserError, match=r"this probe was fitted on .* but .* has the fingerprint"):
            use(TEXTS, twin)
    probe.save(tmp_path / "probe")
    with pytest.raises(UserError, match="load the model the probe belongs to"):
        FittedProbe.load(tmp_path / "probe", twin)


def test_code_of_a_model_does_not_run_because_a_probe_says_so(model, probe):
    trusting = replace(probe, model_config={**probe.model_config, "trust_remote_code": True})
    assert trusting.load_model(device="cpu").config.trust_remote_code is False


def test_damaged_folders_are_told(probe, tmp_path):
    with pytest.raises(UserError, match="holds no probe"):
        FittedProbe.load(tmp_path)
    folder = tmp_path / "probe"
    probe.save(folder)
    with pytest.raises(UserError, match="exists already"):
        probe.save(folder)
    path = folder / "probe.json"
    whole = json.loads(path.read_text())
    for text, message in (
        ("{", "is damaged"),
        ("[]", "was not written by this version"),
        (json.dumps({**whole, "format": 99}), "was not written by this version"),
        (json.dumps({key: value for key, value in whole.items() if key != "sites"}), "wrong or missing fields sites"),
        (json.dumps({**whole, "sites": 5}), "is damaged: sites is 5"),
        (json.dumps({**whole, "colour": 1}), "wrong or missing fields colour"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            FittedProbe.load(folder)


def test_a_failed_save_leaves_nothing(probe, tmp_path):
    with pytest.raises(UserError):
        replace(probe, estimator=object()).save(tmp_path / "probe")
    assert list(tmp_path.iterdir()) == []
