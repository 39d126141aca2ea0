"""The pool over the nodes of a Ray cluster: who runs what (:mod:`schedule`), the pool (:mod:`pool`), Ray (:mod:`cluster`)."""
