"""What pyvene calls a model's parts, as sites: ``mlp_output`` of layer 3 is ``mlp_out.3``, or the path of the module it means.

pyvene's names mean modules' inputs and outputs. Where one of our named sites passes the same module it is taken, else the path.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from layerwise.errors import UserError
from layerwise.models.names import parse_site

_ATTENTION = ("self_attn", "attn", "attention")
_ACTIVATION = ("act_fn", "act")
_NAMED = {
    "block_input": "resid_pre",
    "block_output": "resid_post",
    "attention_value_output": "z",
    "attention_weight": "pattern",
}
_PROJECTIONS = {"query": ("q", "q_proj"), "key": ("k", "k_proj"), "value": ("v", "v_proj")}


def site_of(component: str, layer: int, model: Any, heads: str) -> str:
    """The site that a component means on a model; ``heads`` (``3``, ``0-2``) for those that pyvene splits into heads.

    Raises UserError for a component that the model, or pyvene's table, does not have.
    """
    if "." in component:
        path = component.replace("[", ".").replace("]", "")
        prefix = next(
            (name for name, _ in model.module.named_modules() if name.endswith(path.rpartition(".")[0])), None
        )
        return path if prefix is None else f"{prefix}.{path.rpartition('.')[2]}"
    if not model.sites.stacks:
        raise UserError(
            f"{component} is pyvene's name for a part of its own nets, and this model's sites are its modules' paths."
        )
    stack = model.sites.stack_of("resid_post.0")
    if not 0 <= layer < stack.n_layers:
        raise UserError(f"{component} of layer {layer}: this model has layers 0 to {stack.n_layers - 1}.")
    split = component.startswith("head_")
    if split and not heads:
        raise UserError(f"{component} acts on heads, which pyvene is told at run time: say heads='3' or heads='0-2'.")
    name = component.removeprefix("head_")
    block = stack.block(layer)
    if name in _NAMED:
        return f"{_NAMED[name]}.{layer}" + (f".{heads}" if split else "")
    return _of_module(name, layer, block, model, f".{heads}" if split else "")


def _of_module(name: str, layer: int, block: str, model: Any, heads: str) -> str:
    root: nn.Module = model.module
    part, _, side = name.rpartition("_")
    if part == "mlp" and side in ("input", "output"):
        return _named_if_same(f"{block}.mlp.{side}", f"mlp_out.{layer}", model)
    attention = f"{block}.{_first(root.get_submodule(block), _ATTENTION, name)}"
    if part == "attention" and side in ("input", "output"):
        return _named_if_same(f"{attention}.{side}", f"attn_out.{layer}", model)
    if name == "mlp_activation":
        return f"{block}.mlp.{_first(root.get_submodule(f'{block}.mlp'), _ACTIVATION, name)}.output"
    if part in _PROJECTIONS and side == "output":
        site, projection = _PROJECTIONS[part]
        if not hasattr(root.get_submodule(attention), projection):
            return f"{site}.{layer}{heads}"  # one projection for all three, whose parts are these sites
        if heads:
            raise UserError(
                f"head_{name} is before rotation and norm, where no head is a site of its own: name {projection} by its path, "
                "with dims."
            )
        return f"{attention}.{projection}.output"
    raise UserError(f"{name} is no part that can be found in {type(root).__name__}.")


def _first(module: nn.Module, names: tuple[str, ...], wanted: str) -> str:
    found = next((name for name in names if hasattr(module, name)), None)
    if found is None:
        raise UserError(f"{wanted}: {type(module).__name__} has none of {', '.join(names)}.")
    return found


def _named_if_same(path: str, site: str, model: Any) -> str:
    """The named site where it passes the very module, else the path (a norm behind the module, for instance)."""
    if path.endswith(".output") and site.rpartition(".")[0] in model.sites.names():
        port = model.sites.port(parse_site(site))
        if port.side == "output" and f"{port.path}.output" == path:
            return site
    return path
