"""Judging videos and predictions: the image domain, tables and figures of whole folders."""
