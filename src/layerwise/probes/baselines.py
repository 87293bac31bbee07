"""What needs no language model: the majority class, the mean target, and counts of the words in the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from layerwise.errors import UserError

# Words of one letter and punctuation count too: "I", "2", "?" can be all that a class hangs on.
TOKEN = r"\w+|[^\w\s]"


def majority(task: str = "classification") -> Any:
    """Always the training items' most frequent class with their class shares, or their mean target."""
    return DummyRegressor() if task == "regression" else DummyClassifier(strategy="prior")


def bag_of_words(task: str = "classification") -> Any:
    """Logistic (ridge) regression on how often each word of the training texts occurs.

    What it scores, a probe would score without a model that understands anything. Takes ``as_documents(texts)``.
    """
    counts = CountVectorizer(token_pattern=TOKEN, dtype=np.float64)
    return make_pipeline(counts, Ridge() if task == "regression" else LogisticRegression(max_iter=2000))


def held_out_accuracy(
    y: np.ndarray, y_test: np.ndarray, documents: np.ndarray | None = None, test_documents: np.ndarray | None = None
) -> dict[str, float]:
    """Accuracy on test rows of what the training rows teach without a model: majority, and with documents bag_of_words.

    Args:
        y, y_test: (n,) and (m,) class ids.
        documents, test_documents: (n,) and (m,) texts of the rows; without them only the majority class is scored.
    """
    found = {"majority": float(majority().fit(np.zeros((len(y), 1)), y).score(np.zeros((len(y_test), 1)), y_test))}
    if documents is not None and test_documents is not None:
        found["bag_of_words"] = float(bag_of_words().fit(documents, y).score(test_documents, y_test))
    return found


def as_documents(texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
    """``(n,)`` array of texts, a pair as both its texts in a row.

    Raises:
        UserError: if no text has a word.
    """
    documents = texts if pairs is None else [f"{a}\n{b}" for a, b in zip(texts, pairs, strict=True)]
    if not any(document.strip() for document in documents):
        raise UserError(f"none of the {len(documents)} texts has a word in it.")
    return np.array(documents, dtype=object)
