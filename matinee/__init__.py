"""The composition root: settings, workspace, the daily pipeline and the command line."""
