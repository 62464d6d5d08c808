"""The care for a repository in daily life: what is going on, what is wrong, what is due.

It composes the packages above and adds no second way to do their work.
"""
