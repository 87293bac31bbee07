"""What was found inside one model, drawn."""
