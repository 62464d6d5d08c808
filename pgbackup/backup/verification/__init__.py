"""Is a stored backup what it was when it was taken, and can it be restored?"""
