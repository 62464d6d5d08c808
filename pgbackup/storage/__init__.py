"""Named immutable byte objects, somewhere.

Nothing here knows what the objects mean, and nothing above it knows where they lie.
"""
