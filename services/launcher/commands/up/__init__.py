"""`certstream-server up`: everything on one machine.

command.py   what is started and stopped, in which order
demo.py      the simulated world of `--demo`
address.py   where clients connect, and whether that is free
alive.py     whether a gateway still answers
place.py     a directory for as long as it runs
panel.py     what a person at a terminal sees
"""
