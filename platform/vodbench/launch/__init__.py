"""Putting a study onto a cluster: how large it has to be, what is submitted, and how it is followed and stopped."""
