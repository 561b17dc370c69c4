"""matinee."""
