"""The command line: one file per verb. `main.VERBS` is the table of contents."""
