"""The example files of a deployment, as far as they can be read without the programs that use them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATRONI = ROOT / "deploy" / "patroni"
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def variables(name: str) -> dict[str, str]:
    lines = (PATRONI / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_nodes_differ_in_their_names_and_addresses_alone() -> None:
    """What one node listens on is what the others look for, and nothing else differs."""
    nodes = {number: variables(f"node{number}.env") for number in (1, 2, 3)}
    same = [
        {name: value.replace(f"127.0.0.1{number}", "HOST").replace(f"node{number}", "NODE") for name, value in node.items()}
        for number, node in nodes.items()
    ]
    shared = {"ETCD_INITIAL_CLUSTER", "PATRONI_ETCD3_HOSTS"}
    for name in nodes[1]:
        found = [node[name] for node in (nodes.values() if name in shared else same)]
        assert found == [found[0]] * 3, name
    for node in nodes.values():
        assert f"{node['ETCD_NAME']}={node['ETCD_INITIAL_ADVERTISE_PEER_URLS']}" in node["ETCD_INITIAL_CLUSTER"].split(",")
        assert node["ETCD_ADVERTISE_CLIENT_URLS"].removeprefix("http://") in node["PATRONI_ETCD3_HOSTS"].split(",")


def test_the_page_names_the_ports_hosts_and_settings_of_the_files() -> None:
    """docs/operations.md says of ports, hosts and times what the files say."""
    for number in (1, 2, 3):
        node = variables(f"node{number}.env")
        assert node["PATRONI_POSTGRESQL_CONNECT_ADDRESS"] in PAGE
        for address in re.findall(r"127\.0\.0\.\d+:(\d+)", "\n".join(node.values())):
            assert re.search(rf"^\| [\d, ]*\b{address}\b", PAGE, re.MULTILINE), address
    settings = (PATRONI / "patroni.yml").read_text(encoding="utf-8")
    for name in ("ttl", "loop_wait", "retry_timeout", "primary_start_timeout"):
        value = re.search(rf"^ +{name}: (\d+)$", settings, re.MULTILINE)
        assert value is not None, name
        assert f"`{name}` {value[1]}" in PAGE, name


def test_no_file_holds_a_password() -> None:
    """Passwords are placeholders, and nobody gets in without one."""
    found = variables("passwords.env")
    assert {value for name, value in found.items() if name.endswith("PASSWORD")} == {"CHANGE-ME"}
    replication = found["PATRONI_REPLICATION_USERNAME"]
    rules = re.findall(r"^ +- (host .*)$", (PATRONI / "patroni.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert rules
    assert all(rule.endswith("scram-sha-256") for rule in rules)
    assert any(rule.startswith(f"host replication {replication} ") for rule in rules)
