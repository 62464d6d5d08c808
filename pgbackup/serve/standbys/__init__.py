"""Who is connected, what each has acknowledged, and what enough of them have together."""
