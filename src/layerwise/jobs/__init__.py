"""One module per entry point: a frozen config dataclass and ``run(config, tracker)``, read like a recipe."""
