"""Pairs of prompts in the words of the tiny tokenizer."""

from __future__ import annotations

from layerwise.data.pairs.pairs import PromptPairs


def make_pairs(n: int = 4) -> PromptPairs:
    cities = ["paris", "rome", "london", "madrid"]
    countries = ["france", "italy", "england", "spain"]
    clean, corrupted, answers, others, parts, other_parts = [], [], [], [], [], []
    for row in range(n):
        one, other = row % 4, (row + 1) % 4
        extra = " very good" if row % 2 else ""
        texts = [f"the{extra} city of {cities[number]} is in" for number in (one, other)]
        for text, number, texts_to, parts_to in (
            (texts[0], one, clean, parts),
            (texts[1], other, corrupted, other_parts),
        ):
            texts_to.append(text)
            parts_to.append({"subject": (text.index(cities[number]), text.index(cities[number]) + len(cities[number]))})
        answers.append(f" {countries[one]}")
        others.append(f" {countries[other]}")
    return PromptPairs(
        "tiny", tuple(clean), tuple(corrupted), tuple(answers), tuple(others), tuple(parts), tuple(other_parts)
    )
