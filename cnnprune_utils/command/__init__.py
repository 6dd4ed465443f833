"""The command ``cnnprune``: what the package does, from the command line, in a folder for each run.

It needs the packages of the optional group ``command``; nothing else in :mod:`cnnprune_utils` imports it.
"""
