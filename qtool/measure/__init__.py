"""What quantizing a node costs, and how wrong it makes the outputs: run, not guessed."""
