"""One log, from its tree head to Redis: windows fetched ahead, published strictly in order.

`windows.py` decides what to ask for, `ahead.py` asks for several windows at once and hands them
on in order, `pipeline.py` makes batches of a window and publishes them, `follower.py` is the loop.
"""
