"""The closed loop: simulated members use the served page for days, and everything that follows from it happens."""
