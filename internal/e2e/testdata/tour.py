"""A tour of redis-py at one node of a cluster. It stops in the middle, while the test kills the master.

tour.py ID HERE THERE GROUP DB SENTINEL... ; says "before" on standard output, waits for "lives|died THERE", says "after".
"""
import sys
import threading
import time

import redis
import redis.sentinel

ID, HERE, THERE, GROUP, DB = sys.argv[1:6]
SENTINELS = [tuple(a.rsplit(":", 1)) for a in sys.argv[6:]]
PATIENCE = 60


def connect(addr, **options):
    host, port = addr.rsplit(":", 1)
    return redis.Redis(host=host, port=int(port), decode_responses=True, client_name=ID, **options)


def key(name):
    return ID + ":" + name


def equal(got, want):
    if got != want:
        raise AssertionError("got %r, want %r" % (got, want))


def refused(prefix, call, *args, **options):
    try:
        got = call(*args, **options)
    except redis.RedisError as e:
        if prefix not in type(e).__name__ + " " + str(e):
            raise
        return
    raise AssertionError("%r instead of an error %s" % (got, prefix))


def eventually(what, call):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (redis.RedisError, AssertionError):
            if time.monotonic() > deadline:
                print("still not so:", what, file=sys.stderr)
                raise
            time.sleep(0.05)


class Later(threading.Thread):
    """A call in the background."""

    def __init__(self, call, *args, **options):
        super().__init__(daemon=True)
        self.call, self.args, self.options = call, args, options
        self.value = self.error = None
        self.start()

    def run(self):
        try:
            self.value = self.call(*self.args, **self.options)
        except Exception as e:
            self.error = e

    def result(self):
        self.join(PATIENCE)
        if self.is_alive():
            raise AssertionError("the call does not end")
        if self.error:
            raise self.error
        return self.value


def waiting(r, n):
    def look():
        found = [c for c in r.client_list() if c["name"] == ID and "b" in c["flags"]]
        equal(len(found), n)
    eventually("%d clients wait" % n, look)


def commands(here, there):
    r = here.pipeline(transaction=False)
    r.delete(key("n"), key("stream"), key("list"), key("hash"))
    for _ in range(100):
        r.incr(key("n"))
    equal(r.execute()[-1], 100)
    equal(there.get(key("n")), "100")
    r = here.pipeline()  # MULTI
    r.incr(key("n"))
    r.hset(key("hash"), mapping={"a": 1, "b": 2})
    equal(r.execute(), [101, 2])
    equal(there.hgetall(key("hash")), {"a": "1", "b": "2"})
    equal(here.transaction(lambda p: (p.multi(), p.incr(key("n"))), key("n")), [102])  # WATCH
    p = here.pipeline()
    p.watch(key("n"))
    there.set(key("n"), 5)
    p.multi()
    p.incr(key("n"))
    refused("WatchError", p.execute)

    script = here.register_script("return {redis.call('GET', KEYS[1]), ARGV[1]}")
    equal(script(keys=[key("n")], args=["x"]), ["5", "x"])
    equal(script(keys=[key("n")], args=["y"], client=there), ["5", "y"])
    refused("ResponseError", here.eval, "return redis.call('nosuch')", 0)

    here.zadd(key("zset"), {"m%d" % i: i / 10 for i in range(300)})
    equal(len(list(there.zscan_iter(key("zset")))), 300)
    equal(there.zrange(key("zset"), 0, 0, withscores=True), [("m0", 0.0)])
    here.mset({key("scan%d" % i): i for i in range(200)})
    equal(len(set(there.scan_iter(key("scan*"), count=30))), 200)

    here.xgroup_create(key("stream"), "g", mkstream=True)
    i = there.xadd(key("stream"), {"f": "v"})
    equal(here.xreadgroup("g", "c", {key("stream"): ">"}, block=0), [[key("stream"), [(i, {"f": "v"})]]])
    equal(here.xpending(key("stream"), "g")["pending"], 1)
    equal(there.xack(key("stream"), "g", i), 1)
    equal(here.xinfo_stream(key("stream"))["length"], 1)
    equal(here.xreadgroup("g", "c", {key("stream"): ">"}, block=1), [])

    popped = Later(here.blpop, [key("none"), key("list")], 0)
    waiting(here, 1)
    equal(there.rpush(key("list"), "1"), 1)
    equal(popped.result(), (key("list"), "1"))
    equal(here.blpop(key("list"), 1), None)
    equal(here.exists(key("list")), 0)


def users(here, there):
    user = ID.replace(":", "-")
    here.acl_setuser(user, enabled=True, passwords=["+secret"], keys=[ID + "*"], commands=["+get", "+@connection"])
    mine = connect(THERE, username=user, password="secret")
    equal(mine.get(key("none")), None)
    refused("NoPermission", mine.set, key("none"), "1")
    refused("NoPermission", mine.get, "others")
    refused("WRONGPASS", connect(THERE, username=user, password="wrong").ping)
    equal(there.acl_getuser(user)["enabled"], True)
    equal(there.acl_deluser(user), 1)


def databases(here, there):
    other = connect(HERE, db=int(DB))
    other.flushdb()
    there.set(key("dumped"), "x", ex=1000)
    dumped = redis.Redis(host=HERE.rsplit(":", 1)[0], port=int(HERE.rsplit(":", 1)[1])).dump(key("dumped"))
    equal(other.restore(key("dumped"), 0, dumped), "OK")
    equal(other.get(key("dumped")), "x")
    equal(other.ttl(key("dumped")), -1)
    equal(other.dbsize(), 1)
    equal(here.info("keyspace")["db" + DB]["keys"], 1)
    other.flushdb()
    if here.wait(1, 0) < 1:
        raise AssertionError("WAIT")


def subscribe(here):
    p = here.pubsub()
    p.subscribe(key("channel"))
    p.psubscribe("__keyspace@0__:" + key("told"))
    for _ in range(2):
        p.get_message(timeout=PATIENCE)
    return p


def heard(p, there):
    there.publish(key("channel"), "hello")
    there.set(key("told"), "1")
    equal([p.get_message(timeout=PATIENCE)["data"] for _ in range(2)], ["hello", "set"])


def main():
    here, there = connect(HERE), connect(THERE)
    commands(here, there)
    users(here, there)
    databases(here, there)
    p = subscribe(here)
    heard(p, there)
    sentinel = redis.sentinel.Sentinel(SENTINELS, decode_responses=True)
    master, replica = sentinel.master_for(GROUP, decode_responses=True), sentinel.slave_for(GROUP, decode_responses=True)
    master.set(key("sentinel"), "1")
    equal(replica.get(key("sentinel")), "1")
    equal(len(sentinel.discover_slaves(GROUP)), 2)

    popped = Later(here.blpop, key("kept"), 0)
    waiting(here, 1)
    print("before", flush=True)

    how, addr = sys.stdin.readline().split()
    there = connect(addr)
    if how == "lives":
        equal(there.rpush(key("kept"), "1", "2"), 2)
        equal(popped.result(), (key("kept"), "1"))
        equal(there.lrange(key("kept"), 0, -1), ["2"])
        heard(p, there)
    else:
        eventually("the client reconnects", here.ping)
        there.rpush(key("kept"), "1")  # it waits still if the KV node lives
        popped.join(PATIENCE)
        equal(popped.is_alive(), False)
    commands(here, there)
    eventually("Sentinel finds a master", lambda: master.set(key("sentinel"), "2"))
    eventually("Sentinel finds a replica", lambda: equal(replica.get(key("sentinel")), "2"))
    print("after", flush=True)


main()
