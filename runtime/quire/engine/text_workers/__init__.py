"""Tokenizing and chat templates in processes of their own, which can be ended, so that no text holds up a server.

A template and a tokenizer's regular expressions are programs that came with a model, run on what a client sent; either
may take for ever, and Python cannot stop them inside a process that has other things to do.
"""
