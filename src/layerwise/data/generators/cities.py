"""True and false statements about which country a city is in, after Marks & Tegmark, "The Geometry of Truth" (2023).

Countries come in pairs, of one continent and with equally many cities, and a false statement names the other country. So
within a pair every word stands in as many true as false statements: counting words cannot tell them apart, on any choice of
pairs. A pair is a group: no city and no country is both in training and in test data.
"""

from __future__ import annotations

import numpy as np

from layerwise.data.dataset import TextDataset
from layerwise.data.generators.tables import listed, read_table

LABELS = ("false", "true")


def cities(negated: bool = False) -> TextDataset:
    """ "The city of Paris is in France.", 740 statements on 370 cities, half of them true.

    Args:
        negated: "The city of Paris is not in France." instead, with the labels that then hold.

    Every row carries its contrast pair (plain statement, negated statement), in this order in both forms.
    """
    texts, labels, groups, contrast, spans = [], [], [], [], []
    for row in read_table("cities"):
        for city in listed(row["cities"]):
            for country in (row["country"], row["instead"]):
                pair = (f"The city of {city} is in {country}.", f"The city of {city} is not in {country}.")
                texts.append(pair[negated])
                labels.append(int((country == row["country"]) != negated))
                groups.append(" / ".join(sorted((row["country"], row["instead"]))))
                contrast.append(pair)
                spans.append((len("The city of "), len("The city of ") + len(city)))
    return TextDataset(
        name="cities_negated" if negated else "cities",
        texts=tuple(texts), labels=np.array(labels), task="classification", label_names=LABELS,
        groups=np.array(groups), contrast=tuple(contrast), spans=np.array(spans),
        source="Layerwise, written from public facts", licence="Apache-2.0",
    )  # fmt: skip
