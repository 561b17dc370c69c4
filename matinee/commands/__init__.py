"""The subcommands of `matinee`, a module each."""
