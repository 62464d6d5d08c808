"""What PostgreSQL writes: values and file formats.

Pure functions over bytes and text. Nothing here opens a file, a socket or a process, and
nothing outside the standard library is imported.
"""
