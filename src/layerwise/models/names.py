"""Names of sites: the grammar alone, without a model. What each name means is drawn in :mod:`layerwise.models.sites`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from layerwise.errors import UserError, nearest

NAMES = (
    "embed", "resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "cross_q", "cross_k", "cross_v",
    "cross_pattern", "cross_z", "cross_attn_out", "resid_cross", "router", "mlp_post", "mlp_out", "resid_post",
    "final_norm", "logits",
)  # fmt: skip
UNLAYERED = ("embed", "final_norm", "logits")
WITH_HEADS = ("q", "k", "v", "z", "pattern")
_SELECTOR = r"-?\d+|\*|\d+-\d+"
_NAMED = re.compile(
    rf"(?P<name>(?:encoder\.|decoder\.)?(?:{'|'.join(NAMES)}))(?:\.(?P<layer>{_SELECTOR})(?:\.(?P<head>{_SELECTOR}))?)?"
)


@dataclass(frozen=True)
class Site:
    """One named tensor: ``name`` (with its ``encoder.`` or ``decoder.``, or a raw path), ``layer``, ``head``."""

    name: str
    layer: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        return ".".join(str(part) for part in (self.name, self.layer, self.head) if part is not None)

    @property
    def kind(self) -> str:
        """The site's name alone: ``z`` for ``encoder.z`` and for ``cross_z``."""
        return self.name.rpartition(".")[2].removeprefix("cross_") if not self.is_path else self.name

    @property
    def is_path(self) -> bool:
        return self.name.endswith((".input", ".output"))


def parse_site(text: str) -> Site:
    """One site from its name, without knowing a model.

    >>> parse_site("z.-1.3")
    Site(name='z', layer=-1, head=3)
    >>> str(parse_site("model.layers[15].mlp.output"))
    'model.layers.15.mlp.output'

    Raises UserError for a name that is no site, or that means several.
    """
    name, layer, head = split_site(text)
    for part in (layer, head):
        if part is not None and not re.fullmatch(r"-?\d+", part):
            raise UserError(f"{text!r} means several sites; one is wanted here, such as {name}.0.")
    return Site(name, None if layer is None else int(layer), None if head is None else int(head))


def split_site(text: str) -> tuple[str, str | None, str | None]:
    """(name, layer selector, head selector) of a site as typed. Raises UserError for what is no site's name."""
    plain = re.sub(r"\[([^\]]*)\]", r".\1", text.strip())
    if plain.endswith((".input", ".output")):
        return plain, None, None
    match = _NAMED.fullmatch(plain)
    if not match:
        first = re.split(r"\.(?=[-\d*])", plain)[0]
        if first.rpartition(".")[2] in NAMES:
            raise UserError(
                f"cannot read the layer in site {text!r}.\nWrite {first}.5, {first}.-1, {first}.* or {first}.4-8."
            )
        raise UserError(
            f"unknown site {text!r}.{nearest(first, NAMES)}\nSites: {', '.join(NAMES)}; or a module's path with "
            "'.input' or '.output'."
        )
    name, layer, head = match["name"], match["layer"], match["head"]
    bare = name.rpartition(".")[2]
    if bare in UNLAYERED and layer is not None:
        raise UserError(f"{name} has no layers, but got {text!r}.\nWrite {name}.")
    if bare not in UNLAYERED and layer is None:
        raise UserError(f"site {text!r} needs a layer.\nWrite {name}.5, {name}.-1 for the last, or {name}.* for all.")
    if head is not None and bare.removeprefix("cross_") not in WITH_HEADS:
        raise UserError(f"{name} has no heads, but got {text!r}.\nSites with heads: {', '.join(WITH_HEADS)}.")
    return name, layer, head


def select(selector: str, count: int, what: str, text: str) -> list[int]:
    """Indices a selector means among ``count``. Raises UserError with the valid range."""
    if selector == "*":
        return list(range(count))
    ends = [int(selector)] if re.fullmatch(r"-?\d+", selector) else [int(end) for end in selector.split("-")]
    for end in ends:
        if not -count <= end < count:
            raise UserError(
                f"{what} {end} in {text!r} is out of range: the model has {count} {what}s, 0 to {count - 1} (or -{count} to -1)."
            )
    if len(ends) == 1:
        return [ends[0] % count]
    if ends[0] > ends[1]:
        raise UserError(f"the range in {text!r} runs backwards.\nWrite the smaller {what} first.")
    return list(range(ends[0], ends[1] + 1))
