"""The command ``cnnprune``: the package from the command line, with a folder for each run.

It needs the packages of the optional group ``command``; nothing else in :mod:`cnnprune_utils` imports it.
"""
