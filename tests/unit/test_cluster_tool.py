"""The pure parts of the tests' own cluster: keys of images, DNS, lists, what daemons are told."""

import struct
from pathlib import Path

import pytest

from tests.cluster import binaries, buildah, configs, containerd, daemons, dns, project_images
from tests.cluster.shell import ClusterError

SERVICE = "/api/v1/namespaces/ml/services/"
ENDPOINTS = "/api/v1/namespaces/ml/endpoints/"
API = {
    f"{SERVICE}web": {"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7"}},
    f"{SERVICE}headless": {"spec": {"type": "ClusterIP", "clusterIP": "None"}},
    f"{SERVICE}idle": {"spec": {"type": "ClusterIP", "clusterIP": "None"}},
    f"{SERVICE}away": {"spec": {"type": "ExternalName", "externalName": "example.com"}},
    f"{ENDPOINTS}headless": {
        "subsets": [{"addresses": [{"ip": "10.244.0.2", "hostname": "a"}, {"ip": "10.244.0.3"}]}]
    },
}


def get(path):
    return API.get(path, {})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web.ml.svc.cluster.local", dns.Found(("10.96.0.7",))),
        ("headless.ml.svc.cluster.local", dns.Found(("10.244.0.2", "10.244.0.3"))),
        ("a.headless.ml.svc.cluster.local", dns.Found(("10.244.0.2",))),
        ("10-244-0-3.headless.ml.svc.cluster.local", dns.Found(("10.244.0.3",))),
        ("b.headless.ml.svc.cluster.local", None),
        ("idle.ml.svc.cluster.local", dns.Found()),
        ("away.ml.svc.cluster.local", dns.Found(alias="example.com")),
        ("10-1-2-3.ml.pod.cluster.local", dns.Found(("10.1.2.3",))),
        ("ml.svc.cluster.local", dns.Found()),
        ("none.ml.svc.cluster.local", None),
        ("web.ml.svc.cluster.local.ml.svc.cluster.local", None),
        ("example.com", None),
    ],
)
def test_what_a_name_stands_for(name, found):
    assert dns.look_up(name, get) == found


def asked(name, kind=1):
    return b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + dns.encoded(name) + struct.pack(">HH", kind, 1)


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [
        ("headless.ml.svc.cluster.local", 1, 0, 2),
        ("WEB.ml.svc.cluster.local", 1, 0, 1),
        ("web.ml.svc.cluster.local", 28, 0, 0),  # it has no IPv6 address, but it is there
        ("away.ml.svc.cluster.local", 28, 0, 1),
        ("none.ml.svc.cluster.local", 1, 3, 0),
    ],
)
def test_a_packet_says_how_many_answers_there_are(name, kind, code, answers):
    query = asked(name, kind)
    packet = dns.answer(query, get)
    number, flags, questions, records, _, _ = struct.unpack(">6H", packet[:12])
    assert (number, flags & 0xF, questions, records) == (0x1234, code, 1, answers)
    assert packet[12 : len(query)] == query[12:], "the question is repeated"


def test_the_last_bytes_of_an_answer_are_the_address():
    packet = dns.answer(asked("web.ml.svc.cluster.local"), get)
    assert packet.endswith(b"\0\4" + bytes([10, 96, 0, 7]))


def test_names_are_known_while_the_api_server_is_away():
    away = False

    def flaky(path):
        if away:
            raise ConnectionRefusedError
        return get(path)

    remembering = dns.Remembering(flaky)
    before = dns.answer(asked("web.ml.svc.cluster.local"), remembering)
    away = True
    assert dns.answer(asked("web.ml.svc.cluster.local"), remembering) == before
    unseen = dns.answer(asked("headless.ml.svc.cluster.local"), remembering)
    assert unseen[3] & 0xF == 2, "the server failed, which is not: no such name"


def test_a_digest_follows_from_names_contents_and_the_right_to_run(tmp_path):
    (tmp_path / "code").mkdir()
    file = tmp_path / "code" / "a.py"
    file.write_text("1")
    seen = [project_images.digest(tmp_path, ["code"])]
    (tmp_path / "code" / "__pycache__").mkdir()
    (tmp_path / "code" / "__pycache__" / "a.pyc").write_text("2")
    assert project_images.digest(tmp_path, ["code"]) == seen[0]
    file.write_text("2")
    seen.append(project_images.digest(tmp_path, ["code"]))
    file.chmod(0o755)
    seen.append(project_images.digest(tmp_path, ["code"]))
    file.rename(tmp_path / "code" / "b.py")
    seen.append(project_images.digest(tmp_path, ["code"]))
    assert len(set(seen)) == len(seen)


def test_an_input_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ClusterError, match="nowhere"):
        project_images.digest(tmp_path, ["nowhere"])


def test_the_inputs_of_the_project_are_there():
    root = Path(__file__).parents[2]
    for image in project_images.DERIVED:
        assert project_images.digest(root, (image.dockerfile, *image.inputs))


def test_only_what_is_installed_matters_of_pyproject():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    before = project_images.requirements(text)
    assert project_images.requirements(text + "\n[tool.another]\nx = 1\n") == before
    assert project_images.requirements(text.replace('"numpy>=', '"numpy>')) != before


LISTING = """\
REF TYPE DIGEST SIZE PLATFORMS LABELS
docker.io/library/a:1 application/x sha256:1 1.2 GiB linux/amd64 fedkube.local/key=k1,io.cri=managed
docker.io/library/b:1 application/x sha256:2 663.0 KiB linux/amd64 -
sha256:9 application/x sha256:1 1.2 GiB linux/amd64 io.cri=managed
sha256:8 application/x sha256:3 1.2 GiB linux/amd64 io.cri=managed
"""


def test_images_are_told_by_their_keys_and_what_nobody_wants_is_found():
    listed = containerd.parse(LISTING)
    assert [(each.reference, each.key) for each in listed[:2]] == [
        ("docker.io/library/a:1", "k1"),
        ("docker.io/library/b:1", ""),
    ]
    assert containerd.useless(listed, ["docker.io/library/a:1"]) == [
        "docker.io/library/b:1",
        "sha256:8",
    ]


def test_builds_are_lent_the_way_to_packages_and_nothing_else(tmp_path):
    index = tmp_path / "simple"
    index.mkdir()
    (tmp_path / "files").mkdir()
    text = buildah.pip_conf(
        {"extra-index-url": f"file://{index} \n file:///nowhere", "user": "true", "timeout": "9"}
    )
    assert text.splitlines() == [
        "[global]",
        f"extra-index-url = file://{index} file:///nowhere",
        "timeout = 9",
    ]
    conf = tmp_path / "pip.conf"
    conf.write_text(text)
    mounts = buildah.pip_mounts(conf)
    assert f"{conf}:/etc/pip.conf:ro" in mounts
    assert f"{index}:{index}:ro" in mounts
    assert f"{tmp_path / 'files'}:{tmp_path / 'files'}:ro" in mounts
    assert not any("nowhere" in each for each in mounts)


def test_source_lists_offer_sources():
    assert (
        binaries.source_lines("Types: deb\nURIs: x\n", deb822=True) == "Types: deb-src\nURIs: x\n"
    )
    assert binaries.source_lines("deb x y\n# deb z\n", deb822=False) == "deb-src x y\n# deb z\n"


def test_what_old_and_new_releases_are_told():
    old, new = " ".join(daemons.kubelet(20)), " ".join(daemons.kubelet(36))
    assert "--container-runtime=remote" in old
    assert "--container-runtime=remote" not in new
    assert "TTLAfterFinished" in " ".join(daemons.apiserver(20))
    assert "feature-gates" not in " ".join(daemons.apiserver(36))
    assert "EndpointSliceProxying=false" in " ".join(daemons.proxy(36, 20))
    assert "EndpointSliceProxying" not in " ".join(daemons.proxy(20, 20))
    assert "failCgroupV1" not in configs.kubelet(20)
    assert configs.kubelet(36)["failCgroupV1"] is False
