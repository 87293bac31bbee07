"""Similarity of every layer of SmolLM2-135M with every layer of its random twin: memory beside the models, and time.

    python benchmarks/similarity.py --tokens 50000

Memory is how far the process grows above what it holds with both models loaded and one forward of each done, sampled every
10 ms. On a part of the tokens (0: left out) time is set against the forwards alone, on the same batches, nothing read but the last
layer, and the estimate against CKA of all of them at once, in float64 with NumPy.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from layerwise.comparison.inside.rows import SHARE_OF_A_TEXT, Rows, read_rows, rows_in_a_window, sites_of, windows
from layerwise.comparison.inside.similarity import layer_similarity
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel

LENGTH = 512
TEXTS = Path(__file__).parents[2] / "shared" / "data" / "wikitext2_valid_test"


class Memory:
    """The highest resident size of this process while it is watched, in bytes above where it began."""

    def __enter__(self) -> Memory:
        self.process, self.peak, self.watching = psutil.Process(), 0, True
        self.start = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.watching:
            self.peak = max(self.peak, self.process.memory_info().rss - self.start)
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.watching = False
        self.thread.join()


def paragraphs() -> list[str]:
    lines = [
        line.strip() for name in ("valid.txt", "test.txt") for line in (TEXTS / name).read_text("utf-8").splitlines()
    ]
    return [line for line in lines if len(line) > 200]


def forwards_alone(a: LanguageModel, b: LanguageModel, rows: Rows, at_once: int, token_budget: int) -> float:
    """Seconds for the same forwards, in the same windows, with one number kept of each."""
    start = time.perf_counter()
    for part in rows.windows(at_once):
        for model, tokens, places in ((a, rows.tokens_a, rows.a), (b, rows.tokens_b, rows.b)):
            read_rows(model, tokens, rows.texts[part], places[part], ["resid_post.-1"], token_budget)
    return time.perf_counter() - start


def print_time(a: LanguageModel, b: LanguageModel, texts: list[str], options: argparse.Namespace, at_once: int) -> None:
    """The whole of the measure beside its forwards, on a part of the tokens."""
    part = Rows.of(a, b, texts, min(options.tokens, options.timed_tokens), max(at_once // SHARE_OF_A_TEXT, 4), LENGTH)
    budget = options.token_budget
    start, cpu = time.perf_counter(), time.process_time()
    layer_similarity(a, b, texts, options.measures.split(","), tokens=len(part), token_budget=budget, max_length=LENGTH)
    whole, whole_cpu = time.perf_counter() - start, time.process_time() - cpu
    start, cpu = time.perf_counter(), time.process_time()
    forwards_alone(a, b, part, at_once, budget)
    bare, bare_cpu = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"{len(part):,} tokens: {whole / bare:.2f} of the forwards' time ({bare:.0f} s), processor {whole_cpu / bare_cpu:.2f}"
    )


def print_error(a: LanguageModel, b: LanguageModel, texts: list[str], tokens: int) -> None:
    """The estimate over minibatches beside the unbiased CKA of all of the tokens at once, all pairs of layers."""
    names = sites_of(a, "resid_post.*")
    at_once = rows_in_a_window(a, b, names, names)
    rows = Rows.of(a, b, texts, tokens, max(at_once // SHARE_OF_A_TEXT, 4), LENGTH)
    whole = next(windows(a, b, rows, names, names, tokens, tokens))
    direct = full_cka(
        [whole.a[name].double().numpy() for name in names], [whole.b[name].double().numpy() for name in names]
    )
    for minibatch in (64, 256):
        found = layer_similarity(a, b, texts, ["cka"], tokens=tokens, minibatch=minibatch, max_length=LENGTH)
        apart = np.abs(found.values["cka"] - direct)
        print(
            f"CKA of {len(rows):,} tokens, minibatches of {minibatch} against all at once, {direct.size} pairs of layers from "
            f"{direct.min():.3f} to {direct.max():.3f}: apart by {np.median(apart):.4f} in the median, {apart.max():.4f} at most",
            flush=True,
        )


def full_cka(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    """Unbiased linear CKA of all pairs, written out from Song et al. 2012, equation 4; what one Gram matrix gives is shared."""

    def gram(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(0)
        k = x @ x.T
        np.fill_diagonal(k, 0)
        return k

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        n, sums, others = len(k), k.sum(0), other.sum(0)
        product = np.vdot(k, other) + sums.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sums @ others)
        return float(product / (n * (n - 3)))

    grams_b = list(map(gram, b))
    own_b = [hsic(k, k) for k in grams_b]
    found = []
    for x in a:
        k = gram(x)
        own = hsic(k, k)
        found.append([hsic(k, other) / np.sqrt(own * of_b) for other, of_b in zip(grams_b, own_b, strict=True)])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--measures", default="cka")
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timed-tokens", type=int, default=5000, help="0 leaves the time out")
    parser.add_argument("--checked-tokens", type=int, default=2500, help="0 leaves the check of the estimate out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    a, b = load_model("smollm2"), load_model(ModelConfig(random_init=True))
    texts = paragraphs()
    names = sites_of(a, "resid_post.*")
    at_once = rows_in_a_window(a, b, names, names)
    warm = Rows.of(a, b, texts, 64, None, 64)
    for model in (a, b):
        read_rows(model, warm.tokens_a, warm.texts, warm.a, names)
    with Memory() as memory:
        start = time.perf_counter()
        found = layer_similarity(
            a,
            b,
            texts,
            options.measures.split(","),
            tokens=options.tokens,
            token_budget=options.token_budget,
            max_length=LENGTH,
        )
        seconds = time.perf_counter() - start
    shape = next(iter(found.values.values())).shape
    print(f"{options.measures}: {found.tokens:,} tokens, {shape[0]} x {shape[1]} layers, {seconds:.0f} s")
    print(f"memory beside the models: at most {memory.peak / 2**20:.0f} MiB", flush=True)
    if options.timed_tokens:
        print_time(a, b, texts, options, at_once)
    if options.checked_tokens:
        print_error(a, b, texts, options.checked_tokens)


if __name__ == "__main__":
    main()
