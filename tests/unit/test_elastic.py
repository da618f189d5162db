"""The workers that elastic pools have, as nodes, pods, quotas and other runs come and go."""

from __future__ import annotations

from typing import Any

import pytest
from devices import DRIVER, a_claim, a_class, a_gpu, a_slice
from reconciling import FakeCluster, a_job, a_run, an_ended_server, play

from fedkube.coordinator import plan
from fedkube.coordinator.declared import read
from fedkube.coordinator.elastic import Elastic, Wish, shape_of, shares
from fedkube.coordinator.objects import Run
from fedkube.coordinator.reconciler import Reconciler
from fedkube.coordinator.seen import Progress, Seen
from fedkube.coordinator.supply import Key, View, claimed, taking
from fedkube.planner import devices, kubernetes
from fedkube.planner.devices import Claims
from fedkube.planner.need import Need
from fedkube.planner.sharing import Share

Object = dict[str, Any]
GPU = "nvidia.com/gpu"
POD = {"resources": {"limits": {GPU: 1}}}
NO_CLAIMS: Claims[Key] = Claims()


def a_node(name: str, gpus: int, **spec: Any) -> Object:
    return {
        "metadata": {"name": name},
        "spec": spec,
        "status": {
            "allocatable": {GPU: str(gpus), "cpu": "64", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def a_worker(run: str, node: str, number: int, gpus: int = 1, **metadata: Any) -> Object:
    labels = {"fedkube.io/run": run, "fedkube.io/role": "worker"} if run else {}
    return {
        "metadata": {"name": f"{run}-{number}", "namespace": "ml", "labels": labels, **metadata},
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": {GPU: gpus}}}]},
        "status": {"phase": "Running"},
    }


def a_view(
    nodes: list[Object],
    pods: list[Object] = [],  # noqa: B006
    quotas: list[Object] = [],  # noqa: B006
    claims: Claims[Key] | None = NO_CLAIMS,
) -> View:
    kept = [each for pod in pods if (each := taking(pod)) is not None]
    return View([kubernetes.node_of(node) for node in nodes], kept, {"ml": quotas}, {}, claims)


def gpu_run(name: str = "r", clients: int = 64, **more: Any) -> Object:
    body = a_run(name, f"{ord(name[0]):08x}-1")
    sharing = more.pop("sharing", {})
    body["spec"] = {"pool": {"clients": clients, "pod": POD} | more, "sharing": sharing}
    return body


def wish(name: str = "r", use: int | None = None, **more: Any) -> Wish:
    run = read(gpu_run(name, **more))
    return Wish(run, shape_of(run), use)


def workers(view: View, headroom: int = 0, **wishes: Wish) -> dict[str, int]:
    found = shares(view, {("ml", name): each for name, each in wishes.items()}, headroom)
    return {key[1]: each.workers for key, each in found.items()}


# ----------------------------------------------------------------- shares


def test_a_pool_gets_as_many_workers_as_there_are_gpus() -> None:
    nodes = [a_node("a", 1), a_node("b", 4), a_node("c", 8)]
    assert workers(a_view(nodes), r=wish()) == {"r": 13}
    assert workers(a_view(nodes), r=wish(workers=6)) == {"r": 6}
    assert workers(a_view(nodes), r=wish(clients=3)) == {"r": 3}


def test_what_others_take_is_not_free_and_what_a_run_has_is_its_own() -> None:
    nodes = [a_node("a", 8)]
    pods = [a_worker("", "a", 1, gpus=3), a_worker("r", "a", 2), a_worker("r", "a", 3)]
    assert workers(a_view(nodes, pods), r=wish()) == {"r": 5}
    leaving = a_worker("r", "a", 4, deletionTimestamp="2026-01-01T00:00:00Z")
    assert workers(a_view(nodes, [*pods, leaving]), r=wish()) == {"r": 5}, "it makes way"
    other = a_worker("", "a", 6, deletionTimestamp="2026-01-01T00:00:00Z")
    assert workers(a_view(nodes, [*pods, other]), r=wish()) == {"r": 4}, "who knows for how long"
    over = a_worker("r", "a", 5) | {"status": {"phase": "Failed"}}
    assert workers(a_view(nodes, [*pods, over]), r=wish()) == {"r": 5}


def test_nodes_that_take_no_pods_do_not_count() -> None:
    tainted = a_node("a", 8, taints=[{"key": "mine", "effect": "NoSchedule"}])
    usual = a_node("b", 2, taints=[{"key": GPU, "value": "present", "effect": "NoSchedule"}])
    cordoned = a_node("c", 8, unschedulable=True)
    assert workers(a_view([tainted, usual, cordoned]), r=wish()) == {"r": 2}


def of_devices(*gpus: int, claims: list[Object] = [], selector: str = "true") -> Claims[Key]:  # noqa: B006
    """So many GPUs on the nodes a, b, ..., and what has been claimed of them."""
    slices = [
        devices.slice_of(a_slice(node, [a_gpu(number) for number in range(count)]))
        for node, count in zip("abc", gpus, strict=False)
    ]
    classes = [devices.class_of(a_class(DRIVER, selector))]
    return Claims(
        [each for each in slices if each is not None],
        classes,
        [each for claim in claims if (each := claimed(claim)) is not None],
    )


def claiming(name: str = "r", count: int = 1, **more: Any) -> Wish:
    return wish(name, pod={"devices": {DRIVER: count}}, **more)


def claiming_pod(run: str, node: str, number: int) -> Object:
    """Of a run's worker, as it is created from its Job."""
    pod = a_worker(run, node, number, annotations={"fedkube.io/devices": f'{{"{DRIVER}": 1}}'})
    pod["spec"]["containers"] = [{}]
    return pod


def test_devices_that_are_claimed_count_as_others_do() -> None:
    nodes = [a_node("a", 0), a_node("b", 0)]
    assert workers(a_view(nodes, claims=of_devices(3, 5)), r=claiming()) == {"r": 8}
    assert workers(a_view(nodes, claims=of_devices(3, 5)), r=claiming(count=2)) == {"r": 3}
    assert workers(a_view(nodes), r=claiming()) == {"r": 0}
    others = [a_claim("a", "gpu-0", "gpu-1")]
    mine = [a_claim("b", f"gpu-{number}", run="r") for number in range(2)]
    view = a_view(nodes, claims=of_devices(3, 5, claims=[*others, *mine]))
    assert workers(view, r=claiming()) == {"r": 6}, "what it has is its own"
    assert sum(workers(view, r=claiming(), s=claiming("s")).values()) == 6


def test_a_quota_of_devices_counts_as_if_the_run_had_no_workers() -> None:
    name = f"{DRIVER}.deviceclass.resource.k8s.io/devices"
    quota = {"spec": {"hard": {name: "3"}}, "status": {"hard": {name: "3"}, "used": {name: "2"}}}
    pods = [claiming_pod("r", "a", 1)]
    claims = of_devices(8, claims=[a_claim("a", "gpu-0", run="r"), a_claim("a", "gpu-1")])
    view = a_view([a_node("a", 0)], pods, [quota], claims)
    assert workers(view, r=claiming()) == {"r": 2}


def test_a_quota_counts_as_if_the_run_had_no_workers() -> None:
    quota = {
        "spec": {"hard": {f"requests.{GPU}": "3"}},
        "status": {"hard": {f"requests.{GPU}": "3"}, "used": {f"requests.{GPU}": "3"}},
    }
    pods = [a_worker("r", "a", number) for number in range(2)] + [a_worker("", "a", 9)]
    view = a_view([a_node("a", 8)], pods, [quota])
    assert workers(view, r=wish()) == {"r": 2}
    why = shares(view, {("ml", "r"): wish()}, 0)["ml", "r"].why
    assert why == f"the namespace's quota leaves no more {GPU}"


def test_runs_share_by_weight_and_priority() -> None:
    view = a_view([a_node("a", 8)])
    assert workers(view, x=wish("x"), y=wish("y")) == {"x": 4, "y": 4}
    assert workers(view, x=wish("x", sharing={"weight": 3.0}), y=wish("y")) == {"x": 6, "y": 2}
    assert workers(view, x=wish("x", sharing={"priority": -1}), y=wish("y")) == {"x": 0, "y": 8}


def test_a_run_without_use_for_its_workers_keeps_them_as_long_as_nobody_wants_them() -> None:
    pods = [a_worker("x", "a", number) for number in range(8)]
    view = a_view([a_node("a", 8)], pods)
    assert workers(view, x=wish("x", use=0)) == {"x": 8}
    assert workers(view, x=wish("x", use=0), y=wish("y", workers=3)) == {"x": 5, "y": 3}
    assert workers(view, x=wish("x", use=2), y=wish("y")) == {"x": 2, "y": 6}
    assert workers(a_view([a_node("a", 8)]), x=wish("x", use=0)) == {"x": 0}, "none are begun"


def test_headroom_is_for_an_autoscaler() -> None:
    assert workers(a_view([a_node("a", 2)]), 3, r=wish()) == {"r": 5}
    assert workers(a_view([]), 3, r=wish()) == {"r": 3}


# ----------------------------------------------------------------- what is decided


NOW = plan.datetime(2026, 1, 1, tzinfo=plan.datetime.now().astimezone().tzinfo)


def decided(share: Share | None, run: Run | None = None) -> plan.Decision:
    run = run or read(gpu_run())
    before = plan.FederatedRunStatus()
    return plan.decide(run, before, Seen(progress=Progress(workers=1)), True, NOW, share)


def conditions(decision: plan.Decision) -> dict[str, tuple[str, str, str]]:
    return {
        each.type: (each.status, each.reason, each.message) for each in decision.status.conditions
    }


def test_what_a_run_has_is_in_its_status_and_why_it_has_no_more() -> None:
    decision = decided(Share(4, {"a": 4}, "1 node with no more nvidia.com/gpu free"))
    assert decision.parallelism == {"r-workers": 4}
    assert decision.status.desired_workers == 4
    assert conditions(decision)["Scaled"] == (
        "False",
        "FewerWorkers",
        "4 of at most 64 workers: 1 node with no more nvidia.com/gpu free",
    )


def test_all_workers() -> None:
    decision = decided(Share(64, {"a": 64}, ""))
    assert conditions(decision)["Scaled"] == ("True", "AllWorkers", "64 of at most 64 workers")


def test_a_run_may_begin_with_none() -> None:
    decision = decided(Share(0, {}, "1 node without nvidia.com/gpu"))
    assert decision.ensure, "the server is there before there is a GPU"
    assert decision.parallelism == {"r-workers": 0}
    sentence = "0 of at most 64 workers: 1 node without nvidia.com/gpu"
    assert conditions(decision)["Ready"] == (
        "False", "NoWorkers", f"the run waits for room: {sentence}",
    )  # fmt: skip


def test_pools_without_accelerators_have_what_they_ask_for() -> None:
    run = read(a_run())
    assert run.parallelism == {"r-workers": 2}
    decision = decided(None, run)
    assert decision.parallelism == {"r-workers": 2}
    assert "Scaled" not in conditions(decision)


@pytest.mark.parametrize(
    ("pool", "most"),
    [
        ({"clients": 10}, 1),
        ({"clients": 10, "workers": 4}, 4),
        ({"clients": 3, "workers": 4}, 3),
        ({"clients": 10, "pod": POD}, 10),
        ({"clients": 10, "workers": 4, "pod": POD}, 4),
        ({"clients": 10, "pod": {"resources": {"limits": {GPU: 0}}}}, 1),
        ({"clients": 10, "pod": POD, "clientsPerAccelerator": 4}, 3),
        ({"clients": 10, "pod": POD, "clientsPerAccelerator": 4, "workers": 2}, 2),
        ({"clients": 10, "pod": POD, "clientsPerAccelerator": 16}, 1),
    ],
)
def test_the_most_workers_that_a_pool_has(pool: Object, most: int) -> None:
    assert read({**a_run(), "spec": {"pool": pool}}).parallelism == {"r-workers": most}


# ----------------------------------------------------------------- as it goes on


class Nodes:
    """What the cluster has, for an Elastic."""

    def __init__(self, *nodes: Object) -> None:
        self.nodes = list(nodes)
        self.pods: list[Object] = []
        self.known = True
        self.blind = False

    def view(self) -> View | None:
        return a_view(self.nodes, self.pods) if self.known else None


@pytest.mark.parametrize(
    "claims", [None, of_devices(4, selector="semver(device.driver)")], ids=["forbidden", "obscure"]
)
def test_where_nobody_can_say_how_many_devices_there_are(claims: Claims[Key] | None) -> None:
    """The scheduler has the say then, and the run as many workers as it asks for."""

    class Hidden(Nodes):
        def view(self) -> View:
            return a_view(self.nodes, claims=claims)

    elastic = Elastic(Hidden(a_node("a", 4)))
    of_claims, of_gpus = claiming().run, wish("s").run
    assert elastic.want(("ml", "r"), of_claims, Need(), 0) is None
    share = elastic.want(("ml", "s"), of_gpus, Need(), 0)
    assert share is not None
    assert share.workers == 4, "of others it can be said"


def parallelism(cluster: FakeCluster, run: str) -> int:
    begun: int = cluster.objects["Job", f"{run}-workers"]["spec"]["parallelism"]
    return cluster.scaled.get(f"{run}-workers", begun)


def test_workers_follow_the_gpus() -> None:
    cluster, nodes = FakeCluster(), Nodes(a_node("a", 4))
    elastic = Elastic(nodes)
    run = gpu_run()
    seen: list[int] = []

    def job(reconciler: Reconciler) -> None:
        seen.append(parallelism(cluster, "r"))
        body = a_job(run, "workers", "w")
        body["spec"]["parallelism"] = seen[-1]
        reconciler.saw_child("Job", body, False)

    def gpus(count: int) -> Any:
        def step(_: Reconciler) -> None:
            nodes.nodes = [a_node("a", count)]
            elastic.share_out()

        return step

    play(
        cluster, lambda r: r.saw_run(run, False), job, gpus(1), job, gpus(8), job, gpus(0), job,
        elastic=elastic,
    )  # fmt: skip
    assert seen == [4, 1, 8, 0]


def test_a_run_has_use_for_as_many_pods_as_serve_its_clients_at_a_time() -> None:
    elastic = Elastic(Nodes(a_node("a", 8)))
    run, need = read(gpu_run(clients=24, clientsPerAccelerator=3)), Need(0)
    held = elastic.want(("ml", "r"), run, need, 0)
    assert held is not None
    assert held.workers == 8
    need.note(0.0, 7)
    other = elastic.want(("ml", "s"), read(gpu_run("s")), Need(), 0)
    assert other is not None
    assert other.workers == 5, "seven clients on three pods"


def test_a_run_that_ends_makes_room_for_another() -> None:
    cluster, nodes = FakeCluster(), Nodes(a_node("a", 4))
    elastic = Elastic(nodes)
    first, second = gpu_run("x"), gpu_run("y")
    seen: list[dict[str, int]] = []

    def look(_: Reconciler) -> None:
        seen.append({key[1]: each.workers for key, each in elastic._shares.items()})

    def end(reconciler: Reconciler) -> None:
        reconciler.saw_child("Job", a_job(first, "server", "s"), False)
        reconciler.saw_child("Pod", an_ended_server(first, "s"), False)

    play(
        cluster,
        lambda r: r.saw_run(first, False), look,
        lambda r: r.saw_run(second, False), look,
        end, look,
        lambda r: r.saw_run(second, True), look,
        elastic=elastic,
    )  # fmt: skip
    assert seen == [{"x": 4}, {"x": 2, "y": 2}, {"y": 4}, {}]


def test_as_long_as_the_nodes_are_not_known_nothing_is_changed() -> None:
    """A coordinator that begins again sees runs before it sees nodes."""
    cluster, nodes = FakeCluster(), Nodes(a_node("a", 4))
    nodes.known = False
    elastic = Elastic(nodes)
    run = gpu_run()
    job = a_job(run, "workers", "w")
    job["spec"]["parallelism"] = 7

    def known(_: Reconciler) -> None:
        assert cluster.scaled == {}
        nodes.known = True
        elastic.share_out()

    play(
        cluster,
        lambda r: r.saw_child("Job", job, False),
        lambda r: r.saw_run(run, False),
        known,
        lambda r: None,
        elastic=elastic,
    )
    assert cluster.scaled == {"r-workers": 4}


def test_without_sight_of_the_nodes_a_pool_has_what_it_asks_for() -> None:
    cluster = FakeCluster()
    play(cluster, lambda r: r.saw_run(gpu_run(workers=5), False))
    assert parallelism(cluster, "r") == 5


def test_without_the_right_to_see_the_nodes_a_pool_has_what_it_asks_for() -> None:
    cluster, nodes = FakeCluster(), Nodes()
    nodes.known, nodes.blind = False, True
    play(cluster, lambda r: r.saw_run(gpu_run(workers=5), False), elastic=Elastic(nodes))
    assert parallelism(cluster, "r") == 5


def test_a_suspended_run_wants_nothing() -> None:
    elastic = Elastic(Nodes(a_node("a", 4)))
    run = read(gpu_run())
    share = elastic.want(("ml", "r"), run, Need(), 0)
    assert share is not None
    assert share.workers == 4
    body = gpu_run()
    body["spec"]["suspend"] = True
    cluster = FakeCluster()
    play(cluster, lambda r: r.saw_run(body, False), elastic=elastic)
    assert elastic._shares == {}


# ----------------------------------------------------------------- Kueue


def in_a_queue() -> Object:
    body = gpu_run(workers=5)
    body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a"}
    return body


def test_where_kueue_is_installed_the_workers_wait_in_its_queue_and_the_server_does_not() -> None:
    cluster = FakeCluster()
    cluster.has_kueue = True
    elastic = Elastic(Nodes(a_node("a", 2)))
    play(cluster, lambda r: r.saw_run(in_a_queue(), False), elastic=elastic)
    job = cluster.objects["Job", "r-workers"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["metadata"]["annotations"]["kueue.x-k8s.io/job-min-parallelism"] == "1"
    assert (job["spec"]["suspend"], job["spec"]["parallelism"]) == (True, 5)
    server = cluster.objects["Job", "r-server"]
    assert "suspend" not in server["spec"]
    assert "kueue.x-k8s.io/queue-name" not in server["metadata"]["labels"]
    assert elastic._shares == {}, "who is let in is Kueue's to say"


def test_how_many_kueue_lets_in_is_left_alone() -> None:
    cluster = FakeCluster()
    cluster.has_kueue = True
    body = in_a_queue()
    job = a_job(body, "workers", "w")
    job["spec"]["parallelism"] = 3

    def suspend(reconciler: Reconciler) -> None:
        assert cluster.scaled == {}
        body["spec"]["suspend"] = True
        reconciler.saw_run(body, False)

    play(
        cluster,
        lambda r: r.saw_child("Job", job, False),
        lambda r: r.saw_run(body, False),
        suspend,
    )
    assert cluster.scaled == {"r-workers": 0}


def test_a_run_says_that_it_waits_for_the_queue() -> None:
    run = read(in_a_queue())
    job = a_job(gpu_run(), "workers", "w")
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    job["spec"]["suspend"] = True
    seen = Seen(workers={"r-workers": job})
    decision = plan.decide(run, plan.FederatedRunStatus(), seen, True, NOW)
    assert conditions(decision)["Ready"][1:] == (
        "WaitingForQueue",
        "the queue team-a has not let the workers in yet: see kubectl get workloads",
    )


def test_without_kueue_its_label_says_nothing() -> None:
    cluster = FakeCluster()
    elastic = Elastic(Nodes(a_node("a", 2)))
    play(cluster, lambda r: r.saw_run(in_a_queue(), False), elastic=elastic)
    job = cluster.objects["Job", "r-workers"]
    assert "suspend" not in job["spec"]
    assert job["spec"]["parallelism"] == 2
