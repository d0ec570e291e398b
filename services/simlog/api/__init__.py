"""What a world serves besides its logs: paths, log lists, control and measurements.

Guarantees, with the tests that hold them:

- Faults and lists change at run time from this machine only, and a rejected change leaves the
  others as they were (`tests/simlog/api/test_control.py`).
- The configuration and the lists lead a client to exactly the logs of the world
  (`tests/simlog/ctlog/test_serving.py`).

How: `routes` is the table of all paths; `control` changes faults and lists, `log_list` makes and
signs the lists, `request_stats` counts requests and measures how late answers were.
"""
