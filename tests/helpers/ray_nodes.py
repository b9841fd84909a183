"""A Ray cluster of several nodes on this machine that loses and gains nodes at random, in a process of its own.

Called as: ray_nodes.py NODES SEED SHORTEST LONGEST (seconds between two events). Prints the cluster's address, then
obeys its standard input: ``shake 3`` (kill and add nodes until three more were killed, or until told otherwise),
``rest``, and its end. Each kill and each new node is a line of output.
"""

import contextlib
import os
import random
import select
import sys

# Ray's name for: stay on loopback
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
from ray.cluster_utils import Cluster  # noqa: E402

SIZE = {"node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
FEWEST, MOST = 1, 3

count, seed, pause = int(sys.argv[1]), int(sys.argv[2]), (float(sys.argv[3]), float(sys.argv[4]))
rng, real = random.Random(seed), os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # Ray prints here too
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SIZE})
nodes = [cluster.add_node(num_cpus=1, **SIZE) for _ in range(count)]
real.write(f"{cluster.address}\n")
kills = 0
with contextlib.suppress(KeyboardInterrupt):
    while True:
        ready, _, _ = select.select([0], [], [], rng.uniform(*pause) if kills else None)
        if ready:
            said = os.read(0, 100).decode().split()
            if not said:
                break
            kills = int(said[-1]) if said[-1].isdigit() else 0
        elif len(nodes) > FEWEST and (len(nodes) >= MOST or rng.random() < 0.6):
            kills -= 1
            cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
            real.write("killed\n")
        else:
            nodes.append(cluster.add_node(num_cpus=1, **SIZE))
            real.write("added\n")
cluster.shutdown()
