"""Layerwise: what transformer language models know, in which layer, and whether they use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.servable import AttachedProbe

__version__ = "0.1.0"
__all__ = ["__version__", "load_probe"]


def load_probe(uri: str, model: LanguageModel | None = None) -> AttachedProbe:
    """A probe from the tracking server, ready to use: ``load_probe("runs:/RUN_ID").predict(["The city of Paris is in France."])``.

    ``uri``: ``runs:/RUN_ID``, ``runs:/RUN_ID/NAME``, ``models:/…``, or a folder. ``model``: its language model, where already loaded.
    """
    from layerwise.tracking.servable import load_probe as load

    return load(uri, model)
