"""Prune the filters of a convolutional network with the Taylor criterion, one gate per filter.

The flow: data -> train -> gates -> scores -> ranks -> plan -> prune -> fine-tune -> compare.
One module each; start with :mod:`cnnprune_utils.criteria` and :mod:`cnnprune_utils.surgery`.
"""
