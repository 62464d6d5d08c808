"""The command line: one file a verb, which reads options, makes one call and renders the answer."""
