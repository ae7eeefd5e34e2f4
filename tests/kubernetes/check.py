#!/usr/bin/env python3
"""Renders the Kubernetes manifests and checks them: `make test-kubernetes`.

Every object is checked against the API's own schemas, of the oldest release that has what the
manifests use and of the newest known one, unknown fields refused. KEDA's objects have no schema there;
their fields are checked against those that its documentation names. Then what no schema knows: that
names refer to something, that pods are closed, that graces add up.
"""

import json
import pathlib
import subprocess
import sys

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FARMS = ["deploy/kubernetes/overlays/small", "deploy/kubernetes/overlays/production", "tests/kubernetes/all"]
TARGETS = [*FARMS, "deploy/kubernetes/node-setup"]
KUBECTL = sys.argv[1] if len(sys.argv) > 1 else "kubectl"
# 1.33 is the first with hostUsers switched on; it serves `preStop.sleep` as well.
RELEASES = ["1.33", "1.37"]

# What KEDA 2 documents of a ScaledObject, as far as it is used here: field -> type or fields.
SCALED_OBJECT = {
    "apiVersion": str,
    "kind": str,
    "metadata": dict,
    "spec": {
        "scaleTargetRef": {"apiVersion": str, "kind": str, "name": str},
        "pollingInterval": int,
        "cooldownPeriod": int,
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": dict}},
        "triggers": [{"type": str, "name": str, "metadata": dict, "authenticationRef": {"name": str}}],
    },
}
TRIGGER_AUTHENTICATION = {
    "apiVersion": str,
    "kind": str,
    "metadata": dict,
    "spec": {"secretTargetRef": [{"parameter": str, "name": str, "key": str}]},
}
# KEDA refuses a lagCount without an activationLagCount.
TRIGGERS = {
    "redis-streams": ({"address", "stream", "consumerGroup", "lagCount", "activationLagCount"}, {"enableTLS"}),
    "prometheus": ({"serverAddress", "query", "threshold"}, {"activationThreshold"}),
}

problems = []


def complain(where, what):
    problems.append(f"{where}: {what}")


def expect(condition, where, what):
    if not condition:
        complain(where, what)


def render(target):
    command = [KUBECTL, "kustomize", str(ROOT / target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr.strip():
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def shape(value, wanted, where):
    """Checks a value against a table of fields."""
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            return complain(where, "is no object")
        for field, inner in value.items():
            if field in wanted:
                shape(inner, wanted[field], f"{where}.{field}")
            else:
                complain(where, f"has no field {field}")
    elif isinstance(wanted, list):
        for index, inner in enumerate(value):
            shape(inner, wanted[0], f"{where}[{index}]")
    elif not isinstance(value, wanted):
        complain(where, f"is no {wanted.__name__}")
    return None


def check_scaled_object(thing, where, find):
    shape(thing, SCALED_OBJECT, where)
    target = thing["spec"]["scaleTargetRef"]
    expect(find(target["kind"], target["name"]), where, f"scales nothing: {target}")
    for trigger in thing["spec"]["triggers"]:
        required, allowed = TRIGGERS[trigger["type"]]
        given = trigger["metadata"]
        expect(required <= set(given) <= required | allowed, where, f"{trigger['type']}: {sorted(given)}")
        expect(all(isinstance(value, str) for value in given.values()), where, "metadata is text")
        if trigger["type"] == "redis-streams":
            check_redis_trigger(thing, trigger, where, find)
        else:
            check_capacity_trigger(thing, given, where, find)


def check_redis_trigger(thing, trigger, where, find):
    """KEDA's operator finds Redis from its own namespace, may enter, and has its password."""
    given = trigger["metadata"]["address"].split(":")[0].split(".")
    if given[0] == "execution-redis":
        expect(given[1:2] == [thing["metadata"]["namespace"]], where, f"{given} is no name elsewhere")
        expect(find("Service", given[0]), where, f"there is no service {given[0]}")
        expect(find("NetworkPolicy", "execution-redis-keda"), where, "the operator cannot reach Redis")
    else:
        name = trigger.get("authenticationRef", {}).get("name")
        expect(find("TriggerAuthentication", name), where, f"a Redis of somebody else's, and no password: {name}")


def check_capacity_trigger(thing, given, where, find):
    """Three quarters of what a worker hosts, and of this farm's workers only."""
    worker = pod_of(find("StatefulSet", "execution-worker"))["spec"]["containers"][0]
    [capacity] = [int(entry["value"]) for entry in worker["env"] if entry["name"] == "WORKER_CAPACITY"]
    threshold = int(given["threshold"])
    expect(threshold * 4 == capacity * 3, where, f"scales at {threshold} of {capacity} contracts per worker")
    namespace = f'namespace="{thing["metadata"]["namespace"]}"'
    expect(namespace in given["query"], where, f"counts other farms: {given['query']}")


def check_secrets(things, target):
    """Every key of a Secret is in one that is rendered, or in the command that the overlay tells."""
    told = (ROOT / target / "kustomization.yaml").read_text(encoding="utf-8")
    rendered = {
        (thing["metadata"]["name"], key) for thing in things if thing["kind"] == "Secret" for key in thing["data"]
    }
    for thing in things:
        for name, key in secret_keys(thing):
            by_hand = f"secret generic {name} " in told and f"--from-literal={key}=" in told
            expect((name, key) in rendered or by_hand, target, f"nobody makes the key {key} of the Secret {name}")


def secret_keys(thing):
    if thing["kind"] == "TriggerAuthentication":
        return [(entry["name"], entry["key"]) for entry in thing["spec"]["secretTargetRef"]]
    containers = pod_of(thing)["spec"]["containers"] if pod_of(thing) else ()
    sources = [entry.get("valueFrom", {}) for container in containers for entry in container.get("env", ())]
    asked = [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]
    return [(entry["name"], entry["key"]) for entry in asked]


def check_schema(thing, where):
    for release in RELEASES:
        try:
            kubernetes_validate.validate(thing, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            complain(where, f"{release}: {'.'.join(map(str, error.path))}: {error.message}")
        except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
            complain(where, f"{release}: {error}")


def pod_of(thing):
    template = thing.get("spec", {}).get("template")
    return template if template and "containers" in template.get("spec", {}) else None


def matches(selector, labels):
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(
        rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions") or ()
    )


def check_pod(thing, pod, where):
    spec, labels = pod["spec"], pod["metadata"]["labels"]
    expect(matches(thing["spec"]["selector"], labels), where, "does not select its own pods")
    expect(spec.get("automountServiceAccountToken") is False, where, "mounts a token")
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        expect(not spec.get(field), where, field)
    profile = spec.get("securityContext", {}).get("seccompProfile", {})
    expect(profile.get("type") in ("RuntimeDefault", "Localhost"), where, "has no seccomp profile")
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    volumes |= {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", ())}
    for container in spec["containers"] + spec.get("initContainers", []):
        check_container(container, volumes, f"{where}/{container['name']}")


def check_container(container, volumes, where):
    context = container["securityContext"]
    expect(context["allowPrivilegeEscalation"] is False, where, "may gain privileges")
    expect(context["readOnlyRootFilesystem"] is True, where, "may write to its root")
    expect(context["capabilities"] == {"drop": ["ALL"]}, where, "has capabilities")
    expect(":" in container["image"], where, f"image without a version: {container['image']}")
    expect("memory" in container["resources"]["limits"], where, "memory without a limit")
    ports = {port["name"] for port in container.get("ports", ())}
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        asked = container.get(probe, {})
        port = (asked.get("httpGet") or asked.get("tcpSocket") or {}).get("port")
        expect(port is None or port in ports, where, f"{probe} asks port {port}")
    for mount in container.get("volumeMounts", ()):
        expect(mount["name"] in volumes, where, f"mounts {mount['name']}, which is nothing")


def check_graces(pods, config):
    """SIGKILL comes after a program's own limits: a worker has 15 s more for its last words."""
    grace = int(config["SHUTDOWN_GRACE_MS"]) / 1000
    for name, more in (("execution-api", 0), ("execution-worker", 15)):
        spec = pods[name]["spec"]
        sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {})
        needed = grace + more + sleep.get("seconds", 0)
        expect(spec["terminationGracePeriodSeconds"] > needed, name, f"needs more than {needed} s to end")


def check_worker(spec):
    where = "execution-worker"
    context = spec["securityContext"]
    expect(spec["hostUsers"] is False, where, "shares the host's users")
    expect(context["runAsNonRoot"] is True and context["runAsUser"] == 10001, where, "is another user")
    profile = context["seccompProfile"]
    expect(profile == {"type": "Localhost", "localhostProfile": "execution/chromium.json"}, where, profile)


def check_policies(things, pods, config):
    """Each pod is closed by one policy that allows nothing, and workers reach only Redis, names and, where
    there is one, a collector of traces."""
    policies = [thing for thing in things if thing["kind"] == "NetworkPolicy"]
    for name, pod in pods.items():
        closed = [
            policy
            for policy in policies
            if matches(policy["spec"]["podSelector"], pod["metadata"]["labels"])
            and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and "egress" not in policy["spec"]
        ]
        expect(closed, name, "no policy closes it")
    labels = pods["execution-worker"]["metadata"]["labels"]
    ports = {
        port["port"]
        for policy in policies
        if matches(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("egress", ())
        for port in rule["ports"]
    }
    collector = config.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    allowed = {6379, 53} | ({int(collector.rsplit(":", 1)[1])} if collector else set())
    expect(ports == allowed, "execution-worker", f"may leave by ports {ports}")


def check_references(things, find):
    pods = {thing["metadata"]["name"]: pod_of(thing) for thing in things if pod_of(thing)}
    for thing in things:
        where, spec = thing["metadata"]["name"], thing.get("spec", {})
        if thing["kind"] in ("Service", "PodDisruptionBudget"):
            selector = spec["selector"] if "matchLabels" in spec["selector"] else {"matchLabels": spec["selector"]}
            chosen = [pod for pod in pods.values() if matches(selector, pod["metadata"]["labels"])]
            expect(len(chosen) == 1, where, f"{thing['kind']} selects {len(chosen)} kinds of pods")
        if thing["kind"] == "StatefulSet":
            expect(find("Service", spec["serviceName"]), where, "its service is missing")
        if thing["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            expect(find(target["kind"], target["name"]), where, f"scales nothing: {target}")
    return pods


def check_target(target):
    things = render(target)
    table = {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}

    def find(kind, name):
        return table.get((kind, name))

    for thing in things:
        where = f"{target}: {thing['kind']} {thing['metadata']['name']}"
        if thing["kind"] == "ScaledObject":
            check_scaled_object(thing, where, find)
        elif thing["kind"] == "TriggerAuthentication":
            shape(thing, TRIGGER_AUTHENTICATION, where)
        else:
            check_schema(thing, where)
        if pod_of(thing):
            check_pod(thing, pod_of(thing), where)
    pods = check_references(things, find)
    check_secrets(things, target)
    if target in FARMS:
        [config] = [thing["data"] for kind, thing in table.items() if kind[1].startswith("execution-config-")]
        check_graces(pods, config)
        check_worker(pods["execution-worker"]["spec"])
        check_policies(things, pods, config)
    return len(things)


def check_seccomp():
    """The profile: no way around it, threads work, namespaces can be made, little else."""
    where = "chromium.json"
    profile = json.loads((ROOT / "deploy/seccomp/chromium.json").read_text(encoding="utf-8"))
    expect(profile["defaultAction"] == "SCMP_ACT_ERRNO", where, "allows what it does not name")
    allowed = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }
    expect({"clone", "unshare", "chroot"} <= allowed, where, "Chromium's sandbox cannot start")
    never = {"mount", "umount2", "setns", "bpf", "keyctl", "add_key", "init_module", "kexec_load", "reboot"}
    never |= {"pivot_root", "perf_event_open", "userfaultfd", "open_by_handle_at", "io_uring_setup", "clone3"}
    expect(not never & allowed, where, f"allows {sorted(never & allowed)}")
    clone3 = [rule for rule in profile["syscalls"] if "clone3" in rule["names"]]
    expect([rule.get("errnoRet") for rule in clone3] == [38], where, "clone3 must be answered ENOSYS")
    # Only Docker reads conditions; containerd would apply every rule.
    expect(not any({"includes", "excludes"} & set(rule) for rule in profile["syscalls"]), where, "has conditions")


def main():
    counts = {target: check_target(target) for target in TARGETS}
    check_seccomp()
    for problem in problems:
        print(problem, file=sys.stderr)
    told = ", ".join(f"{target} {count}" for target, count in counts.items())
    print(f"kubernetes: objects {told}; releases {', '.join(RELEASES)}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
