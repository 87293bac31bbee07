"""The store: what is computed once is served, shared, resumed, repaired and removed."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from layerwise.activations import store as store_module
from layerwise.activations.collect import collect
from layerwise.activations.locks import locked
from layerwise.activations.store import Store, shard_counts
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError

from .conftest import TEXTS

SITES, POOLERS = "resid_post.*", "mean,last,none"


@pytest.fixture
def small_shards(monkeypatch) -> None:
    """A text or two a shard, so that the tiny texts make several."""
    monkeypatch.setattr(store_module, "SHARD_BYTES", 4000)


@pytest.fixture
def store(tmp_path: Path, small_shards: None) -> Store:
    return Store(tmp_path / "store")


def filled(model, store: Store, texts=TEXTS, sites=SITES, poolers=POOLERS, **kwargs):
    return collect(model, texts, sites, poolers, store=store, progress=False, **kwargs)


@pytest.fixture
def plain(model):
    return collect(model, TEXTS, SITES, POOLERS, progress=False)


def assert_same(got, plain) -> None:
    for site, pooler in got.keys:
        if pooler == "none":
            a, b = got.tokens(site), plain.tokens(site)
            np.testing.assert_array_equal(a.offsets, b.offsets)
            np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_allclose(got.matrix(site, pooler), plain.matrix(site, pooler), rtol=1e-5, atol=1e-6)


def shards(store: Store) -> list[Path]:
    return sorted(store.folder.rglob("*.safetensors"))


def test_what_is_stored_equals_what_is_computed(model, store, plain) -> None:
    got = filled(model, store)
    assert len(shards(store)) > 2
    assert got.report.computed_tokens == got.report.tokens
    assert_same(got, plain)
    assert got.keys == plain.keys


def test_a_second_time_nothing_is_computed(model, store, plain) -> None:
    filled(model, store)
    ran = []
    hook = model.module.model.register_forward_pre_hook(lambda _m, _a: ran.append(1))
    again = filled(model, store)
    hook.remove()
    assert not ran
    assert again.report.computed_tokens == 0
    assert str(again.report).endswith("all from the store")
    assert_same(again, plain)


def test_a_part_serves_any_of_its_columns_and_only_the_rest_is_computed(model, store, plain) -> None:
    first = filled(model, store)
    less = filled(model, store, sites="resid_post.1", poolers="last")
    assert less.report.computed_tokens == 0
    assert less.stored == first.stored
    more = filled(model, store, sites="resid_post.*,z.0", poolers="max,last")
    assert more.report.computed_tokens == more.report.tokens
    [extra] = set(more.stored) - set(first.stored)
    assert set(store.find(extra).columns) == {"resid_post.0|max", "resid_post.1|max", "z.0|max", "z.0|last"}
    assert_same(replace(more, columns={k: v for k, v in more.columns.items() if k in plain.columns}), plain)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"token_budget": 30}, True),
        ({"texts": TextDataset("named", tuple(TEXTS), labels=[0, 1] * 3 + [1], task="classification", label_names=("a", "b"))}, True),
        ({"dtype": "float16"}, False),
        ({"max_length": 6}, False),
        ({"texts": TEXTS[:-1]}, False),
        ({"texts": TEXTS[::-1]}, False),
        ({"texts": [*TEXTS[:-1], TEXTS[-1] + " ."]}, False),
    ],
    ids=["budget", "labels", "dtype", "truncation", "fewer", "order", "text"],
)  # fmt: skip
def test_the_key_is_what_decides_the_values(model, store, change, same) -> None:
    filled(model, store)
    assert (filled(model, store, **change).report.computed_tokens == 0) == same


def test_a_changed_weight_is_another_model(model, store) -> None:
    filled(model, store, poolers="mean")
    weight = model.module.model.layers[1].mlp.down_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        assert filled(model, store, poolers="mean").report.computed_tokens > 0
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert filled(model, store, poolers="mean").report.computed_tokens == 0


def test_spans_are_part_of_the_key_of_the_span_pooler_alone(model, store) -> None:
    def data(shift: int) -> TextDataset:
        return TextDataset("spans", tuple(TEXTS), spans=np.array([[0, 2 + shift]] * len(TEXTS)))

    filled(model, store, data(0), poolers="span,mean")
    assert filled(model, store, data(0), poolers="span").report.computed_tokens == 0
    other = filled(model, store, data(4), poolers="span")
    assert other.report.computed_tokens > 0
    assert len(other.stored) == 1
    assert_same(other, collect(model, data(4), SITES, "span", progress=False))


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "emptied", "unlisted"])
def test_only_what_is_damaged_is_computed_again(model, store, plain, damage) -> None:
    first = filled(model, store)
    victim = shards(store)[1]
    whole = victim.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in shards(store)}
    if damage == "gone":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(whole[:-10])
    elif damage == "flipped":
        victim.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    elif damage == "emptied":
        victim.write_bytes(b"")
    else:  # a torn last line, as a kill while listing leaves it
        listing = victim.parent / "shards.jsonl"
        lines = [line for line in listing.read_text().splitlines() if line and json.loads(line)["shard"] != 1]
        listing.write_text("\n".join(lines) + '\n{"shard":1,"tens')
    again = filled(model, store)
    lost = load_file(victim)["rows"].numpy()
    assert again.report.computed_tokens == first.tokenized.lengths[lost].sum()
    assert_same(again, plain)
    assert [path for path in shards(store) if path.stat().st_mtime_ns != before[path]] == [victim]
    assert filled(model, store).report.computed_tokens == 0


def test_damage_in_a_column_not_asked_for_does_not_matter(model, store) -> None:
    filled(model, store, sites="resid_post.0,resid_post.1", poolers="mean")
    victim = shards(store)[0]
    tensors = load_file(victim)
    from safetensors.torch import save_file

    tensors["resid_post.1|mean"] += 1
    save_file(tensors, victim)
    assert filled(model, store, sites="resid_post.0", poolers="mean").report.computed_tokens == 0
    assert filled(model, store, sites="resid_post.1", poolers="mean").report.computed_tokens > 0


def test_a_lost_manifest_costs_the_part_and_nothing_else(model, store, plain) -> None:
    filled(model, store)
    [manifest] = store.folder.rglob("manifest.json")
    manifest.write_text("{")
    assert store.parts() == []
    again = filled(model, store)
    assert again.report.computed_tokens == again.report.tokens
    assert_same(again, plain)


def _fill_in_process(model, folder: Path, barrier, results) -> None:
    torch.set_num_threads(1)  # a forked process must not use the thread pool it inherited
    # Slow enough that both are at work at once.
    model.module.model.register_forward_pre_hook(lambda _m, _a: time.sleep(0.02))
    barrier.wait(60)
    got = filled(model, Store(folder), TEXTS * 8)
    results.put((got.report.computed_tokens, float(got.matrix("resid_post.1", "mean").sum())))


def test_two_processes_fill_one_store_and_share_the_work(model, store) -> None:
    assert model.sites.n_layers == 2
    plain = collect(model, TEXTS * 8, SITES, POOLERS, progress=False)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_fill_in_process, args=(model, store.folder, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    (one, sum_one), (two, sum_two) = results.get(timeout=60), results.get(timeout=60)
    for worker in workers:
        worker.join(30)
    assert one + two == plain.report.tokens  # nothing twice
    assert min(one, two) > 0.1 * plain.report.tokens
    assert sum_one == sum_two == pytest.approx(plain.matrix("resid_post.1", "mean").sum(), rel=1e-4)
    assert filled(model, store, TEXTS * 8).report.computed_tokens == 0


def test_bfloat16_comes_back_as_float32(model, store, plain) -> None:
    got = filled(model, store, dtype="bfloat16").matrix("resid_post.1", "mean")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, plain.matrix("resid_post.1", "mean"), rtol=1e-2, atol=1e-2)
    assert load_file(shards(store)[0])["resid_post.1|mean"].dtype is torch.bfloat16


def test_parts_are_listed_and_removed(model, store) -> None:
    kept = filled(model, store, poolers="mean").stored[0]
    other = filled(model, store, TEXTS[:3], poolers="last").stored[0]
    assert {part.key for part in store.parts()} == {kept, other}
    assert all(part.bytes() > 0 for part in store.parts())
    assert [part.key for part in store.unreferenced([kept])] == [other]
    freed = store.remove(other[:8])
    assert freed > 0
    assert [part.key for part in store.parts()] == [kept]
    assert not (store.folder / other).parent.exists()
    with pytest.raises(UserError, match="has no entries whose key begins with"):
        store.remove(other)
    assert filled(model, store, poolers="mean").report.computed_tokens == 0


def test_a_part_that_is_being_filled_is_not_removed(model, store) -> None:
    key = filled(model, store).stored[0]
    with store.find(key).in_use(), pytest.raises(UserError, match="is being filled by another process"):
        store.remove(key)
    store.remove(key)


def test_activations_whose_part_is_removed_say_so(model, store) -> None:
    got = filled(model, store)
    store.remove(got.stored[0])
    with pytest.raises(UserError, match="Collect again"):
        got.matrix("resid_post.0", "mean")


def test_stray_temporary_files_of_the_dead_are_cleared(model, store) -> None:
    filled(model, store)
    victim = shards(store)[0]
    stray = victim.parent / f".{victim.name}.dead.tmp"
    stray.write_bytes(b"half")
    victim.unlink()
    filled(model, store)
    assert not stray.exists()


def test_a_file_in_place_of_the_folder_is_explained(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        Store(tmp_path / "file")


def test_a_lock_is_for_one_and_is_let_go(tmp_path) -> None:
    with locked(tmp_path / "a") as first, locked(tmp_path / "a", wait=False) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "a", wait=False) as third:
        assert third


@pytest.mark.parametrize(
    ("lengths", "sizes", "expected"),
    [
        ([5, 5, 5, 5], [1, 1, 1, 1], [2, 2]),
        ([50, 5, 5], [1, 1, 1], [1, 2]),
        ([1, 1, 1], [4000, 1, 1], [1, 2]),
        ([1], [10**9], [1]),
    ],
)
def test_shards_end_at_the_first_of_tokens_and_bytes(small_shards, lengths, sizes, expected) -> None:
    assert shard_counts(np.array(lengths), np.array(sizes), 10) == expected
