"""The pool over many nodes: who runs what (:mod:`schedule`), the pool (:mod:`pool`), Ray's nodes (:mod:`cluster`)."""
