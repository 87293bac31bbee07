"""Statistics and similarity: pure functions of arrays, each exists once, here."""
