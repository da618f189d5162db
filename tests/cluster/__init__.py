"""A real Kubernetes for the tests: one node on one Debian machine, from Debian packages alone.

etcd, the API server, controllers, scheduler, kubelet, kube-proxy, containerd and runc run in
mount, network and PID namespaces of their own, under one supervisor: `down` ends that one process,
and the kernel takes every daemon, pod, mount, interface and iptables rule with it. The host keeps a
veth interface and two routes through it (gone with the cluster) and empty cgroups (which `down`
removes).

`python -m tests.cluster` is the command line. Root is needed. Nothing in here knows the product but
`project_images`, and nothing but the standard library is imported.
"""
