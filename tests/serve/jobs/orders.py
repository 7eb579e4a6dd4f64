"""Orders, and a queue and a store of their own, for tests of what lies behind the server."""

from everreel.serve.jobs.job import Owner, Quota, Report
from everreel.serve.jobs.order import make_order

ANNA, BEN = Owner("anna"), Owner("ben")


def order(prompt="a red fox", **values):
    return make_order(prompt=prompt, **values)


def owner(name="anna", **quota):
    return Owner(name, Quota(**quota))


def put(queue, whose=ANNA, *, seconds=1, priority=0, **values):
    return queue.put(order(**values), whose, seconds=seconds, priority=priority)[0]


def report(frames, **more):
    return Report(**{"row": 1, "num_rows": 10, "num_frames": frames, "num_bytes": 100 * frames} | more)
