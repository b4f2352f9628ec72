"""Which way of running a model is fastest here: measured, and only among those that are right.

candidates.py  what could be tried, and what the bundle says of its accuracy
search.py      successive halving over whatever can be measured            pure
measuring.py   engines that take turns in this process, and memory in processes of their own
energy.py      what the board measures of its power
conditions.py  what else the machine did meanwhile
session.py     one tuning from the bundle to the record                    (read first)
"""
