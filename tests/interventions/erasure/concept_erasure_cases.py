"""Writes concept_erasure.safetensors: what the package concept-erasure makes of some data. Run with it installed; tests only read.

python tests/interventions/erasure/concept_erasure_cases.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from concept_erasure import LeaceFitter  # type: ignore[import-not-found]
from safetensors.torch import save_file
from test_eraser import data

values, labels = data(300, 10)
target = values[:, 0] - values[:, 2]
written = {}
for case, concept in (("classes", labels), ("binary", (labels > 0).long()), ("target", target)):
    z = concept[:, None] if concept.is_floating_point() else torch.nn.functional.one_hot(concept)
    fitter = LeaceFitter.fit(values, z.double(), shrinkage=False, constrain_cov_trace=False, svd_tol=1e-9)
    written |= {f"{case}/values": values.clone(), f"{case}/labels": concept.clone()}
    written |= {f"{case}/matrix": fitter.eraser.P.contiguous(), f"{case}/erased": fitter.eraser(values).contiguous()}
save_file(written, Path(__file__).with_name("concept_erasure.safetensors"))
