"""Exchange: plans from and to what others use: pyvene's folders, control vectors, adapters, the hub."""
