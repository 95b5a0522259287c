"""Which language a text is in, for mixing: by its script where that decides, else by resiliparse's n-grams."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# What of a text's characters must be Japanese, and of these kana, for it to be Japanese (a page of documentation may be
# English for the better part).
STATISTICS = ("japanese_share", "kana_share")
JAPANESE_SHARE = 0.15
KANA_SHARE = 0.02
LOOKED_AT = 2000  # characters


def languages(texts: "pa.StringArray", statistics: "Mapping[str, np.ndarray]") -> list[str]:
    """ISO 639-1 codes of N texts, `und` where it cannot be told. `statistics` holds `STATISTICS` of them. Kanji without
    kana are `zh`, be it Chinese written in Japan."""
    from resiliparse.parse.lang import detect_fast

    found = []
    for row, (japanese, kana) in enumerate(zip(*(statistics[name].tolist() for name in STATISTICS), strict=True)):
        if japanese >= JAPANESE_SHARE:
            found.append("ja" if kana >= KANA_SHARE else "zh")
        else:
            code = detect_fast(texts[row].as_py()[:LOOKED_AT])[0]
            found.append("und" if code == "unknown" else code)
    return found
