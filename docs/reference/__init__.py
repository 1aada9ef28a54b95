"""Writes the reference pages of commands and of configuration keys from the parser, the annotations and `conf/`."""
