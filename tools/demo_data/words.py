"""Word lists that the exercises draw from."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


WORDS = _words(
    "apple ball bear bird blue boat book box bread bridge brown cake camp car card castle cat chair cheese cherry "
    "circle clock cloud coat coffee corn cow cup desk dog door dream drum duck eagle earth egg engine farm fire fish "
    "flag flower forest fox frog garden gate glass goat gold grape grass green guitar hat hill honey horse house ice "
    "island jacket key king kite lake lamp leaf lemon light lion map market milk mirror moon mouse music night ocean "
    "orange paint paper pear pencil piano pink plane plum pocket pony queen rabbit rain red ring river road rock rope "
    "rose salt sand school sea ship silver sky snow song spoon star stone storm sun table tiger tower train tree "
    "turtle violin wall water white wind window wolf yellow"
)

NAMES = _words(
    "Ada Alan Anna Ben Carl Clara Dora Emma Eric Fred Grace Hugo Ida Jane "
    "John Karl Lena Leo Lisa Max Mia Nora Otto Paul Rosa Sam Tom Vera"
)
CITIES = _words(
    "Athens Berlin Cairo Dublin Lima London Madrid Oslo Paris Prague Quito Rome Sofia Tokyo Vienna Warsaw Zurich"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
