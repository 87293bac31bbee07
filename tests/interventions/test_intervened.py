"""A model under a plan: sources, positions, groups, chains, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import Tiny, texts, tiny
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.models.batch import Batch, make_batch
from layerwise.models.taps import run

LENGTHS = (6, 4, 5, 7, 5, 6)


def plan(*steps: str) -> Plan:
    return Plan.read("steps: [" + ", ".join("{" + step + "}" for step in steps) + "]")


def batch_of(model: Tiny, *indices: int, side: Any = None) -> Batch:
    return make_batch(model, texts(*LENGTHS), list(indices), side)


@pytest.fixture(scope="module")
def llama() -> Tiny:
    return tiny("llama")


@pytest.fixture(scope="module")
def base(llama: Tiny) -> Batch:
    return batch_of(llama, 0, 1, 2)


@pytest.fixture(scope="module")
def source(llama: Tiny) -> Batch:
    return batch_of(llama, 3, 4, 5)


def logits(model: Tiny, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.module(**batch.inputs).logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mixtral", "mamba", "bloom"])
def test_restoring_a_residual_gives_the_sources_answer(family: str) -> None:
    """Texts of different lengths, each at its own last token, whatever the padding."""
    model = tiny(family)
    for side in (None, "left"):
        base, source = batch_of(model, 0, 1, 2, side=side), batch_of(model, 3, 4, 5, side=side)
        with torch.no_grad():
            outcome = Intervened(model, plan("operation: interchange, sites: resid_post.-1, positions: last"))(
                base, {"source": source}
            )
        wanted, columns = (
            logits(model, source),
            [(b.mask.long() * torch.arange(b.mask.shape[1])).argmax(1) for b in (base, source)],
        )
        rows = torch.arange(3)
        torch.testing.assert_close(outcome.logits[rows, columns[0]], wanted[rows, columns[1]], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(outcome.logits[:, 0][base.mask[:, 0]], logits(model, base)[:, 0][base.mask[:, 0]])


def test_positions_of_each_text_are_honoured_with_padding_on_either_side(llama: Tiny) -> None:
    """Against tensors written by hand, text by text, without padding."""
    lists = {"base": [[0, 5], [3, 1], [2, 4]], "source": [[1, 6], [0, 4], [5, 2]]}
    expected = []
    for row in range(3):
        one, other = batch_of(llama, row), batch_of(llama, row + 3)
        read = run(llama, other, {"resid_post.0": None})["resid_post.0"]

        def write(value: Tensor, row: int = row, read: Tensor = read) -> Tensor:
            value = value.clone()
            value[0, lists["base"][row]] = read[0, lists["source"][row]]
            return value

        expected.append(run(llama, one, {}, {"resid_post.0": write}, logits=True)["logits"][0])
    intervened = Intervened(llama, plan("operation: interchange, sites: resid_post.0, positions: each, name: swap"))
    for side in (None, "left"):
        base, source = batch_of(llama, 0, 1, 2, side=side), batch_of(llama, 3, 4, 5, side=side)
        with torch.no_grad():
            found = intervened(base, {"source": source}, positions={"swap": lists}).logits
        for row in range(3):
            torch.testing.assert_close(found[row][base.mask[row]], expected[row], atol=1e-5, rtol=1e-4)


def test_reading_at_one_site_and_writing_at_another(llama: Tiny, base: Batch, source: Batch) -> None:
    step = "operation: interchange, read: resid_post.0, sites: resid_post.1, positions: last, source_positions: 0"
    with torch.no_grad():
        outcome = Intervened(llama, plan(step, "operation: collect, sites: resid_post.1, positions: last"))(
            base, {"source": source}
        )
    read = run(llama, source, {"resid_post.0": None})["resid_post.0"][:, 0]
    torch.testing.assert_close(outcome.collected["collect_1"]["resid_post.1"].values, read)
    own = Intervened(
        llama,
        plan("operation: interchange, source: base, read: z.0.1, sites: z.1.3", "operation: collect, sites: z.1.3"),
    )
    with torch.no_grad():
        kept = own(base).collected["collect_1"]["z.1.3"].values
    torch.testing.assert_close(kept, run(llama, base, {"z.0.1": None})["z.0.1"][base.mask])


def test_heads_and_neurons(llama: Tiny, base: Batch) -> None:
    def neurons(value: Tensor) -> Tensor:
        value = value.clone()
        value[..., [0, 1, 2, 7]] = 0
        return value

    for steps, writes in (
        (("operation: zero, sites: z.1.1-2",), {"z.1.1": torch.zeros_like, "z.1.2": torch.zeros_like}),
        (("operation: zero, sites: 'k.0.1'",), {"k.0.1": torch.zeros_like}),
        (("operation: {kind: constant, value: 0.25}, sites: pattern.1.0",), {"pattern.1.0": lambda value: torch.full_like(value, 0.25)}),
        (("operation: zero, sites: mlp_post.0, dims: '0-2,7'",), {"mlp_post.0": neurons}),
        (("operation: zero, sites: mlp_post.0, partition: [0-2, 7], dims: 0-1",), {"mlp_post.0": neurons}),
    ):  # fmt: skip
        with torch.no_grad():
            found = Intervened(llama, plan(*steps))(base).logits
        expected = run(llama, base, {}, writes, logits=True)["logits"]
        torch.testing.assert_close(found[base.mask], expected[base.mask], atol=1e-5, rtol=1e-4)


def test_subspaces_of_each_text(llama: Tiny, base: Batch, source: Batch) -> None:
    swap = plan("operation: interchange, sites: resid_post.0, positions: 0, partition: [0-3, 4-15], name: swap")
    kept = "operation: collect, sites: resid_post.0, positions: 0"
    intervened = Intervened(llama, Plan((*swap.steps, *plan(kept).steps)))
    with torch.no_grad():
        found = intervened(base, {"source": source}, subspaces={"swap": [[0], [1], [0, 1]]})
    old, new = (run(llama, batch, {"resid_post.0": None})["resid_post.0"][:, 0] for batch in (base, source))
    expected = torch.stack([torch.cat([new[0, :4], old[0, 4:]]), torch.cat([old[1, :4], new[1, 4:]]), new[2]])
    torch.testing.assert_close(found.collected["collect_0"]["resid_post.0"].values, expected)
    with pytest.raises(UserError, match="subspace 2 is beyond the 2 there are"):
        intervened(base, {"source": source}, subspaces={"swap": [2]})


def test_several_sources_share_passes_and_may_be_left_out(llama: Tiny, base: Batch, source: Batch) -> None:
    steps = (
        "operation: interchange, sites: mlp_out.0, positions: 0, source: a, name: one",
        "operation: interchange, sites: attn_out.1, positions: 1, source: a, name: two",
        "operation: interchange, sites: mlp_out.1, positions: 2, source: b, name: three",
    )
    intervened = Intervened(llama, plan(*steps))
    ran: list[int] = []
    handle = llama.module.model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        whole = intervened(base, {"a": source, "b": base}).logits
        assert len(ran) == 3  # one pass for each source, one for the base
        first = intervened(base, {"a": source, "b": None}).logits
        nothing = intervened(base, {"a": None, "b": None}).logits
    handle.remove()
    read = run(llama, source, {"mlp_out.0": None, "attn_out.1": None})

    def writing(site: str, column: int) -> Any:
        def write(value: Tensor) -> Tensor:
            value = value.clone()
            value[:, column] = read[site][:, column]
            return value

        return write

    expected = run(
        llama, base, {}, {"mlp_out.0": writing("mlp_out.0", 0), "attn_out.1": writing("attn_out.1", 1)}, logits=True
    )["logits"]
    torch.testing.assert_close(first[base.mask], expected[base.mask], atol=1e-5, rtol=1e-4)
    assert torch.equal(nothing, logits(llama, base))
    assert not torch.equal(whole, first)
    with pytest.raises(UserError, match="the plan reads from 'b'"):
        intervened(base, {"a": source})
    with pytest.raises(UserError, match="no source 'c'"):
        intervened(base, {"a": source, "b": None, "c": base})


def test_a_chain_of_runs(llama: Tiny, base: Batch, source: Batch) -> None:
    """source → middle → base, by hand with plain taps."""
    middle = batch_of(llama, 5, 0, 3)
    steps = (
        "operation: interchange, sites: resid_post.0, positions: 1, source: source, into: middle",
        "operation: interchange, sites: resid_post.1, positions: 2, source: middle",
    )

    def at(column: int, rows: Tensor) -> Any:
        def write(value: Tensor) -> Tensor:
            value = value.clone()
            value[:, column] = rows
            return value

        return write

    first = run(llama, source, {"resid_post.0": None})["resid_post.0"][:, 1]
    second = run(llama, middle, {"resid_post.1": None}, {"resid_post.0": at(1, first)})["resid_post.1"][:, 2]
    expected = run(llama, base, {}, {"resid_post.1": at(2, second)}, logits=True)["logits"]
    with torch.no_grad():
        found = Intervened(llama, plan(*steps))(base, {"source": source, "middle": middle}).logits
    torch.testing.assert_close(found[base.mask], expected[base.mask], atol=1e-5, rtol=1e-4)
    kept = (*steps, "operation: collect, sites: resid_post.1, into: middle, positions: last")
    with torch.no_grad():
        outcome = Intervened(llama, plan(*kept))(base, {"source": source, "middle": middle})
    assert outcome.collected["collect_2"]["resid_post.1"].values.shape == (3, 16)


def test_stored_values_and_one_text_for_all(llama: Tiny, base: Batch, source: Batch) -> None:
    intervened = Intervened(llama, plan("operation: interchange, sites: resid_post.0, positions: '0,2', name: swap"))
    read = run(llama, source, {"resid_post.0": None})["resid_post.0"][:, [0, 2]]
    one = batch_of(llama, 3)
    with torch.no_grad():
        expected = intervened(base, {"source": source}).logits
        assert torch.equal(intervened(base, {"source": read}).logits, expected)
        assert torch.equal(intervened(base, {"source": {"swap": read}}).logits, expected)
        broadcast = intervened(base, {"source": one}).logits
        assert torch.equal(intervened(base, {"source": batch_of(llama, 3, 3, 3)}).logits, broadcast)
        per_text = intervened(base, {"source": torch.ones(3, 16)}).logits
        assert torch.equal(intervened(base, {"source": torch.ones(16)}).logits, per_text)
    with pytest.raises(UserError, match=r"stored values are \(width,\), \(3, width\)"):
        intervened(base, {"source": torch.zeros(2, 16)})
    with pytest.raises(UserError, match=r"has 5 numbers, and resid_post\.0 has 16"):
        intervened(base, {"source": torch.zeros(5)})
    with pytest.raises(UserError, match="holds no values for swap"):
        intervened(base, {"source": {"other": read}})
    with pytest.raises(UserError, match="has 2 texts and the base 3"):
        intervened(base, {"source": batch_of(llama, 0, 1)})


def test_resample_takes_another_texts_value(llama: Tiny, base: Batch) -> None:
    steps = (
        "operation: resample, sites: resid_post.0, positions: last",
        "operation: collect, sites: resid_post.0, positions: last",
    )
    with torch.no_grad():
        kept = Intervened(llama, plan(*steps))(base).collected["collect_1"]["resid_post.0"].values
    clean = run(llama, base, {"resid_post.0": None})["resid_post.0"][torch.arange(3), base.lengths - 1]
    order = [int((clean == row).all(1).nonzero()) for row in kept]
    assert sorted(order) == [0, 1, 2]
    assert all(place != row for row, place in enumerate(order))


def test_skip_does_without_a_module_and_an_adaptor_sees_its_input(llama: Tiny, base: Batch) -> None:
    with torch.no_grad():
        skipped = Intervened(llama, plan("operation: skip, sites: resid_post.0"))(base).logits
    embedded = run(llama, base, {"resid_pre.0": None})["resid_pre.0"]
    expected = run(llama, base, {}, {"resid_pre.1": lambda value: embedded}, logits=True)["logits"]
    torch.testing.assert_close(skipped[base.mask], expected[base.mask], atol=1e-5, rtol=1e-4)
    intervened = Intervened(llama, plan("operation: {kind: lora, rank: 2}, sites: model.layers.0.mlp.down_proj.output"))
    adaptor = next(iter(intervened.operations.values()))
    assert adaptor.A.shape == (2, 24)
    torch.nn.init.normal_(adaptor.B)
    layer = llama.module.model.layers[0].mlp.down_proj
    with torch.no_grad():
        found = intervened(base).logits
        weight = layer.weight.clone()
        layer.weight += adaptor.factor * adaptor.B @ adaptor.A
        expected = logits(llama, base)
        layer.weight.copy_(weight)
    torch.testing.assert_close(found[base.mask], expected[base.mask], atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"mlp_post\.0 is no module's output"):
        Intervened(llama, plan("operation: skip, sites: mlp_post.0"))


def test_joined_positions_and_heads_are_one_vector(llama: Tiny, base: Batch, source: Batch) -> None:
    steps = "operation: rotation, sites: z.1.0-1, positions: '0,2', joined: true, name: swap"
    intervened = Intervened(llama, plan(steps))
    assert [operation.width for operation in intervened.operations.values()] == [16]
    with torch.no_grad():
        found = intervened(base, {"source": source}).logits
        plainly = Intervened(llama, plan("operation: interchange, sites: z.1.0-1, positions: '0,2'"))(
            base, {"source": source}
        ).logits
    torch.testing.assert_close(found, plainly, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="Give an example batch"):
        Intervened(llama, plan("operation: rotation, sites: z.1.0, positions: all, joined: true"))
    same = batch_of(llama, 2, 4)
    assert (
        next(
            iter(
                Intervened(
                    llama, plan("operation: rotation, sites: z.1.0, joined: true"), example=same
                ).operations.values()
            )
        ).width
        == 20
    )
    with pytest.raises(UserError, match="unequally many"):
        Intervened(llama, plan("operation: zero, sites: resid_post.0, joined: true"))(base)


def test_shared_weights_are_one_operation(llama: Tiny, base: Batch, source: Batch) -> None:
    own = Intervened(llama, plan("operation: rotation, sites: 'resid_post.0,resid_post.1'"))
    assert len(own.operations) == 2
    shared = Intervened(llama, plan("operation: rotation, sites: 'resid_post.0,resid_post.1', weights: one, positions: 0, dims: 0-3",
                                    "operation: rotation, sites: resid_post.0, weights: one, positions: 1"))  # fmt: skip
    assert list(shared.operations) == ["one"]
    shared(base, {"source": source}).logits.sum().backward()
    assert next(shared.parameters()).grad is not None
    with pytest.raises(UserError, match="differ in their operation"):
        Intervened(
            llama,
            plan(
                "operation: rotation, sites: resid_post.0, weights: one",
                "operation: mask, sites: resid_post.0, weights: one",
            ),
        )
    with pytest.raises(UserError, match="whose width is 4"):
        Intervened(llama, plan("operation: rotation, sites: 'resid_post.0,z.0.1', weights: one"))


def test_gradients_reach_operations_and_the_model_only_if_asked(llama: Tiny, base: Batch, source: Batch) -> None:
    step = "operation: {kind: low_rank_rotation, rank: 2}, sites: resid_post.0, positions: last"
    frozen = Intervened(llama, plan(step))
    assert len(list(frozen.parameters())) == 1
    frozen(base, {"source": source}).logits.pow(2).sum().backward()
    assert next(frozen.parameters()).grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in llama.module.parameters())
    assert all(parameter.requires_grad for parameter in llama.module.parameters())
    whole = Intervened(llama, plan(step), train_model=True)
    assert len(list(whole.parameters())) == 1 + len(list(llama.module.parameters()))
    whole(base, {"source": source}).logits.pow(2).sum().backward()
    early = llama.module.model.layers[0].mlp.up_proj.weight
    assert early.grad.abs().sum() > 0
    fixed = {"source": run(llama, source, {"resid_post.0": None})["resid_post.0"][torch.arange(3), source.lengths - 1]}
    through_both = early.grad.clone()
    llama.module.zero_grad()
    whole(base, fixed).logits.pow(2).sum().backward()
    assert not torch.allclose(early.grad, through_both)  # the source's pass has gradients of its own
    llama.module.zero_grad()


def test_the_measured_effect_guards_against_doing_nothing(llama: Tiny, base: Batch, source: Batch) -> None:
    step = "operation: interchange, sites: resid_post.0, positions: last, name: swap"
    intervened = Intervened(llama, plan(step))
    with torch.no_grad():
        assert intervened(base, {"source": base}, measure=True).effects == {"swap": {"resid_post.0": 0.0}}
        assert intervened(base, {"source": source}, measure=True).effects["swap"]["resid_post.0"] > 0.1
        assert (
            Intervened(llama, plan("operation: zero, sites: attn_out.0"))(base, measure=True).effects["zero_0"][
                "attn_out.0"
            ]
            == 1.0
        )


def test_what_must_see_data_is_fitted(llama: Tiny, base: Batch, source: Batch) -> None:
    steps = (
        "operation: mean, sites: resid_post.0, positions: last",
        "operation: {kind: pca, components: 2}, sites: resid_post.1",
    )
    intervened = Intervened(llama, plan(*steps))
    with pytest.raises(UserError, match="has not seen the mean yet"):
        intervened(base, {"source": base})
    intervened.fit([base, source])
    rows = [
        run(llama, b, {"resid_post.0": None})["resid_post.0"][torch.arange(3), b.lengths - 1] for b in (base, source)
    ]
    torch.testing.assert_close(intervened.operations["mean_0@resid_post-0"].vector, torch.cat(rows).mean(0))
    with torch.no_grad():
        assert intervened(base, {"source": base}).logits.isfinite().all()


def test_temperature_penalty_and_taps(llama: Tiny, base: Batch, source: Batch) -> None:
    intervened = Intervened(
        llama,
        plan("operation: boundless, sites: resid_post.0", "operation: {kind: mask, start: 0}, sites: resid_post.1"),
    )
    intervened.set_temperature(0.5)
    assert [float(operation.temperature) for operation in intervened.operations.values()] == [0.5, 0.5]
    assert float(intervened.penalty().detach()) == 1.0
    assert float(Intervened(llama, plan("operation: zero, sites: resid_post.0")).penalty()) == 0.0
    with pytest.raises(UserError, match="temperature must be above 0"):
        intervened.set_temperature(0)
    taps = intervened.taps(
        base, {"source": batch_of(llama, 2, 1, 0)}, positions={"boundless_0": "last", "mask_1": "last"}
    )
    with torch.no_grad():
        direct = intervened(
            base, {"source": batch_of(llama, 2, 1, 0)}, positions={"boundless_0": "last", "mask_1": "last"}
        )
    found = run(llama, base, taps.reads, taps.writes, logits=True)["logits"]
    torch.testing.assert_close(found, direct.logits)
    assert torch.equal(intervened.clean(base).logits, logits(llama, base))


@pytest.mark.parametrize(
    ("steps", "call", "message"),
    [
        (("operation: zero, sites: mlp_out.9",), {}, "layer 9 in 'mlp_out.9' is out of range"),
        (("operation: zero, sites: z.0.9",), {}, "head 9 in 'z.0.9' is out of range"),
        (("operation: zero, sites: mlp_out.0, positions: 5",), {}, r"position 5 is beyond text 1, which has 4 tokens: 0 to 3"),
        (("operation: zero, sites: mlp_out.0, positions: 'chars:0-3'",), {}, "need the texts themselves"),
        (("operation: zero, sites: mlp_out.0, positions: each",), {}, "are a list for every text"),
        (("operation: zero, sites: mlp_out.0, name: a",), {"positions": {"a": [[0], [1]]}}, "a: 2 lists of positions for 3 texts"),
        (("operation: zero, sites: mlp_out.0, name: a",), {"positions": {"a": [[], [], []]}}, "acts on no token at all"),
        (("operation: zero, sites: mlp_out.0, name: a",), {"positions": {"a": [0, 0]}}, "name a token twice"),
        (("operation: zero, sites: mlp_out.0, name: a",), {"positions": {"b": "last"}}, "positions are given for 'b'"),
        (("operation: zero, sites: mlp_out.0, name: a",), {"positions": {"a": {"bass": "last"}}}, "got 'bass'"),
        (("operation: zero, sites: mlp_out.0, dims: 10-16",), {}, "dims 10-16 are beyond the 16 numbers of zero"),
        (("operation: {kind: low_rank_rotation, rank: 17}, sites: mlp_out.0",), {}, "no rotation of rank 17"),
        (("operation: interchange, sites: mlp_out.0",), {"sources": {"source": "source"}}, "text 0 has 7 tokens in the source and 6"),
        (("operation: interchange, sites: 'mlp_out.0-1', read: resid_post.0",), {}, "writes 2 sites and reads 1"),
        (("operation: zero, sites: mlp_out.0, when: decode",), {}, "say when: prompt or every, or generate"),
        (
            ("operation: zero, sites: mlp_out.0, positions: 0-2", "operation: {kind: constant, value: 1}, sites: mlp_out.0, positions: 2"),
            {},
            "constant_1 overwrites what zero_0 wrote at mlp_out.0",
        ),
        (("operation: rotation, sites: pattern.0",), {}, "needs to know how wide its site is"),
        (("operation: zero, sites: transformer.h.0.mlp.output",), {}, "no module 'transformer.h.0.mlp'.*\nSites by name, such as mlp_out.5, fit"),
    ],
)  # fmt: skip
def test_mistakes_are_said(
    llama: Tiny, base: Batch, source: Batch, steps: tuple[str, ...], call: dict, message: str
) -> None:
    if "sources" in call:
        call = {"sources": {"source": source}}
    with pytest.raises(UserError, match=message):
        Intervened(llama, plan(*steps))(base, **call)


def test_writes_that_do_not_conflict_are_allowed(llama: Tiny, base: Batch) -> None:
    with torch.no_grad():
        for steps in (
            (
                "operation: zero, sites: mlp_out.0, dims: 0-3",
                "operation: {kind: constant, value: 1}, sites: mlp_out.0, dims: 4-7",
            ),
            ("operation: zero, sites: z.0.1", "operation: zero, sites: z.0.2"),
            ("operation: zero, sites: mlp_out.0, positions: 0", "operation: zero, sites: mlp_out.0, positions: last"),
            ("operation: zero, sites: mlp_out.0", "operation: noise, sites: mlp_out.0"),
        ):
            Intervened(llama, plan(*steps))(base)
