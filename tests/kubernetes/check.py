#!/usr/bin/env python3
"""Renders the Kubernetes manifests and checks them: `make test-kubernetes`.

Every object is validated against the Kubernetes API schemas of two releases: the oldest that has the
features in use, and the newest known. Unknown fields are errors. Objects of KEDA and of the Prometheus
Operator have no schema there, so their fields are compared with those in their documentation. Further checks cover what no schema
expresses: references between objects, the confinement of pods, and grace periods.
"""

import json
import pathlib
import subprocess
import sys

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FARMS = [
    "deploy/kubernetes/overlays/small",
    "deploy/kubernetes/overlays/production",
    "tests/kubernetes/all",
    "tests/kubernetes/tls",
]
TARGETS = [*FARMS, "deploy/kubernetes/node-setup"]
KUBECTL = sys.argv[1] if len(sys.argv) > 1 else "kubectl"
# 1.33 is the first release that enables hostUsers by default. It also has `preStop.sleep`.
RELEASES = ["1.33", "1.37"]

# The fields of a ScaledObject in KEDA 2 that the manifests use: name -> type or nested fields.
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
        "fallback": {"failureThreshold": int, "replicas": int},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": dict}},
        "triggers": [
            {"type": str, "name": str, "metricType": str, "metadata": dict, "authenticationRef": {"name": str}}
        ],
    },
}
TRIGGER_AUTHENTICATION = {
    "apiVersion": str,
    "kind": str,
    "metadata": dict,
    "spec": {"secretTargetRef": [{"parameter": str, "name": str, "key": str}]},
}
# The fields of a PodMonitor and a PrometheusRule of the Prometheus Operator that the manifests use.
POD_MONITOR = {
    "apiVersion": str,
    "kind": str,
    "metadata": dict,
    "spec": {"selector": {"matchLabels": dict}, "podMetricsEndpoints": [{"port": str, "interval": str}]},
}
PROMETHEUS_RULE = {"apiVersion": str, "kind": str, "metadata": dict, "spec": {"groups": list}}
# Required and optional metadata. KEDA rejects a lagCount without an activationLagCount.
TRIGGERS = {
    "redis-streams": ({"address", "stream", "consumerGroup", "lagCount", "activationLagCount"}, {"enableTLS", "username"}),
    "redis-cluster-streams": (
        {"addresses", "stream", "consumerGroup", "lagCount", "activationLagCount"},
        {"enableTLS", "username"},
    ),
    "prometheus": ({"serverAddress", "query", "threshold"}, {"activationThreshold"}),
    "cpu": ({"value"}, set()),
}

problems = []


def report(where, what):
    problems.append(f"{where}: {what}")


def expect(condition, where, what):
    if not condition:
        report(where, what)


def render(target):
    command = [KUBECTL, "kustomize", str(ROOT / target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr.strip():
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def check_fields(value, wanted, where):
    """Compares a value with a table of fields."""
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            return report(where, "is not an object")
        for field, inner in value.items():
            if field in wanted:
                check_fields(inner, wanted[field], f"{where}.{field}")
            else:
                report(where, f"has no field {field}")
    elif isinstance(wanted, list):
        for index, inner in enumerate(value):
            check_fields(inner, wanted[0], f"{where}[{index}]")
    elif not isinstance(value, wanted):
        report(where, f"is not of type {wanted.__name__}")
    return None


def check_scaled_object(obj, where, find):
    check_fields(obj, SCALED_OBJECT, where)
    target = obj["spec"]["scaleTargetRef"]
    expect(find(target["kind"], target["name"]), where, f"scale target does not exist: {target}")
    for trigger in obj["spec"]["triggers"]:
        required, allowed = TRIGGERS[trigger["type"]]
        given = trigger["metadata"]
        known = required <= set(given) <= required | allowed
        expect(known, where, f"{trigger['type']}: wrong metadata fields {sorted(given)}")
        expect(all(isinstance(value, str) for value in given.values()), where, "metadata must contain only strings")
        if trigger["type"] in ("redis-streams", "redis-cluster-streams"):
            check_redis_trigger(obj, trigger, where, find)
        elif trigger["type"] == "cpu":
            requests = pod_of(find(target["kind"], target["name"]))["spec"]["containers"][0]["resources"]["requests"]
            expect("cpu" in requests, where, "a cpu trigger needs a request for cpu")
        else:
            check_capacity_trigger(obj, given, where, find)


def check_redis_trigger(obj, trigger, where, find):
    """KEDA's operator, in its own namespace, resolves Redis, may connect to it, and has its password."""
    metadata = trigger["metadata"]
    given = (metadata.get("address") or metadata["addresses"]).split(":")[0].split(".")
    if given[0] == "execution-redis":
        expect(given[1:2] == [obj["metadata"]["namespace"]], where, f"{given} does not resolve in another namespace")
        expect(find("Service", given[0]), where, f"the service {given[0]} does not exist")
        expect(find("NetworkPolicy", "execution-redis-keda"), where, "no network policy lets the operator reach Redis")
    name = trigger.get("authenticationRef", {}).get("name")
    expect(find("TriggerAuthentication", name), where, f"Redis needs a TriggerAuthentication: {name}")


def check_capacity_trigger(obj, given, where, find):
    """The threshold is three quarters of WORKER_CAPACITY, and the query counts this farm only."""
    worker = pod_of(find("StatefulSet", "execution-worker"))["spec"]["containers"][0]
    [capacity] = [int(entry["value"]) for entry in worker["env"] if entry["name"] == "WORKER_CAPACITY"]
    threshold = int(given["threshold"])
    expect(threshold * 4 == capacity * 3, where, f"threshold {threshold} is not 3/4 of the capacity {capacity}")
    namespace = f'namespace="{obj["metadata"]["namespace"]}"'
    expect(namespace in given["query"], where, f"the query counts other farms as well: {given['query']}")


def check_pod_monitor(obj, where, objects):
    """It selects one workload, whose pods have the port that is scraped."""
    check_fields(obj, POD_MONITOR, where)
    pods = [pod_of(other) for other in objects if pod_of(other)]
    chosen = [pod for pod in pods if selects(obj["spec"]["selector"], pod["metadata"]["labels"])]
    expect(len(chosen) == 1, where, f"selects {len(chosen)} workloads instead of one")
    ports = {port["name"] for pod in chosen for port in pod["spec"]["containers"][0]["ports"]}
    for endpoint in obj["spec"]["podMetricsEndpoints"]:
        expect(endpoint["port"] in ports, where, f"scrapes the unknown port {endpoint['port']}")


def check_rules(obj, where):
    """They are those of the file for a Prometheus without the operator."""
    check_fields(obj, PROMETHEUS_RULE, where)
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    expect(obj["spec"] == alerts, where, "differs from deploy/prometheus/alerts.yml")
    headings = (ROOT / "docs/runbook.md").read_text(encoding="utf-8").splitlines()
    for rule in obj["spec"]["groups"][0]["rules"]:
        name = rule["alert"]
        expect(f"### {name}" in headings, where, f"docs/runbook.md says nothing about {name}")
        link = f"docs/runbook.md#{name.lower()}"
        expect(rule["annotations"].get("runbook_url") == link, where, f"{name} does not link to {link}")


def instructions_of(folder):
    """The comments of a kustomization and of everything that it consists of."""
    text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
    parts = yaml.safe_load(text)
    folders = [(folder / part).resolve() for part in parts.get("resources", []) + parts.get("components", [])]
    return "\n".join([text, *(instructions_of(part) for part in folders if part.is_dir())])


def check_secrets(objects, target):
    """Every referenced Secret key is rendered, or created by the command in a comment."""
    instructions = instructions_of(ROOT / target)
    rendered = {
        (obj["metadata"]["name"], key) for obj in objects if obj["kind"] == "Secret" for key in obj["data"]
    }
    for obj in objects:
        for name, key in secret_keys(obj):
            given = any(f"--from-{kind}={key}=" in instructions for kind in ("literal", "file"))
            by_hand = f"secret generic {name} " in instructions and given
            expect((name, key) in rendered or by_hand, target, f"the key {key} of the Secret {name} is not created")


def secret_keys(obj):
    if obj["kind"] == "TriggerAuthentication":
        return [(entry["name"], entry["key"]) for entry in obj["spec"]["secretTargetRef"]]
    spec = pod_of(obj)["spec"] if pod_of(obj) else {"containers": ()}
    sources = [entry.get("valueFrom", {}) for container in spec["containers"] for entry in container.get("env", ())]
    referenced = [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]
    secrets = [volume["secret"] for volume in spec.get("volumes", ()) if "secret" in volume]
    mounted = [(secret["secretName"], item["key"]) for secret in secrets for item in secret["items"]]
    return [(entry["name"], entry["key"]) for entry in referenced] + mounted


def check_schema(obj, where):
    for release in RELEASES:
        try:
            kubernetes_validate.validate(obj, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            report(where, f"{release}: {'.'.join(map(str, error.path))}: {error.message}")
        except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
            report(where, f"{release}: {error}")


def pod_of(obj):
    template = obj.get("spec", {}).get("template")
    return template if template and "containers" in template.get("spec", {}) else None


def selects(selector, labels):
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(
        rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions") or ()
    )


def check_pod(obj, pod, where):
    spec, labels = pod["spec"], pod["metadata"]["labels"]
    expect(selects(obj["spec"]["selector"], labels), where, "its selector does not match its own pods")
    expect(spec.get("automountServiceAccountToken") is False, where, "mounts a service account token")
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        expect(not spec.get(field), where, f"must not set {field}")
    profile = spec.get("securityContext", {}).get("seccompProfile", {})
    expect(profile.get("type") in ("RuntimeDefault", "Localhost"), where, "has no seccomp profile")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    volumes |= {claim["metadata"]["name"]: {} for claim in obj["spec"].get("volumeClaimTemplates", ())}
    for container in spec["containers"] + spec.get("initContainers", []):
        check_container(container, volumes, f"{where}/{container['name']}")


def check_container(container, volumes, where):
    context = container["securityContext"]
    expect(context["allowPrivilegeEscalation"] is False, where, "allows privilege escalation")
    expect(context["readOnlyRootFilesystem"] is True, where, "has a writable root file system")
    expect(context["capabilities"] == {"drop": ["ALL"]}, where, "does not drop all capabilities")
    expect(":" in container["image"], where, f"image without a version: {container['image']}")
    resources = container["resources"]
    expect("memory" in resources["limits"], where, "has no memory limit")
    expect("ephemeral-storage" in resources["limits"], where, "has no limit for its log")
    ports = {port["name"] for port in container.get("ports", ())}
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        referenced = container.get(probe, {})
        port = (referenced.get("httpGet") or referenced.get("tcpSocket") or {}).get("port")
        expect(port is None or port in ports, where, f"{probe} uses the unknown port {port}")
    for mount in container.get("volumeMounts", ()):
        expect(mount["name"] in volumes, where, f"mounts the unknown volume {mount['name']}")
    check_files(container, volumes, where)


def check_files(container, volumes, where):
    """The files that variables name come from a Secret, and the user of the container may read them."""
    files = {}
    for mount in container.get("volumeMounts", ()):
        secret = volumes.get(mount["name"], {}).get("secret")
        for item in secret["items"] if secret else ():
            files[f"{mount['mountPath']}/{item['path']}"] = secret.get("defaultMode", 0o644)
    for entry in container.get("env", ()):
        if entry["name"].startswith("REDIS_") and entry["name"].endswith("_FILE"):
            mode = files.get(entry["value"])
            expect(mode is not None, where, f"{entry['name']}: nothing is mounted at {entry['value']}")
            expect(mode is None or mode & 0o004, where, f"{entry['value']} belongs to root, and only root may read it")


def check_graces(pods, config):
    """SIGKILL comes after a program's own limits. A worker takes up to 15 s more to end what is left."""
    grace = int(config["SHUTDOWN_GRACE_MS"]) / 1000
    load_deadline = int(config.get("LOAD_DEADLINE_MS", 30_000)) / 1000
    expect(grace > load_deadline, "execution-config", f"SHUTDOWN_GRACE_MS cuts off loads of {load_deadline} s")
    for name, more in (("execution-api", 0), ("execution-worker", 15)):
        spec = pods[name]["spec"]
        sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {})
        needed = grace + more + sleep.get("seconds", 0)
        granted = spec["terminationGracePeriodSeconds"]
        expect(granted > needed, name, f"terminationGracePeriodSeconds is {granted}, must exceed {needed}")


def check_worker(spec):
    where = "execution-worker"
    context = spec["securityContext"]
    expect(spec["hostUsers"] is False, where, "shares the user namespace of the host")
    expect(context["runAsNonRoot"] is True and context["runAsUser"] == 10001, where, "must run as the user 10001")
    profile = context["seccompProfile"]
    wanted = {"type": "Localhost", "localhostProfile": "execution/chromium.json"}
    expect(profile == wanted, where, f"wrong seccomp profile {profile}")


def check_room(pods, find):
    """Apis and Redis outlive workers, and the memory that workers and Redis may use is reserved."""
    values = {}
    for name, pod in pods.items():
        spec = pod["spec"]
        found = find("PriorityClass", spec.get("priorityClassName"))
        expect(found, name, f"its priority class does not exist: {spec.get('priorityClassName')}")
        values[name] = found["value"] if found else 0
        resources = spec["containers"][0]["resources"]
        if name != "execution-api":
            reserved = resources["requests"]["memory"] == resources["limits"]["memory"]
            expect(reserved, name, "requests less memory than it may use")
        if name != "execution-redis":
            keys = {constraint["topologyKey"] for constraint in spec["topologySpreadConstraints"]}
            wanted = {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
            expect(keys == wanted, name, f"is spread over {sorted(keys)} only")
    core = [value for name, value in values.items() if name != "execution-worker"]
    expect(min(core) > values["execution-worker"], "execution-worker", "its priority is not the lowest")


def check_policies(objects, pods, config):
    """A deny-all policy applies to each pod. Workers reach only Redis, DNS and, where configured, a trace
    collector."""
    policies = [obj for obj in objects if obj["kind"] == "NetworkPolicy"]
    for name, pod in pods.items():
        deny_all = [
            policy
            for policy in policies
            if selects(policy["spec"]["podSelector"], pod["metadata"]["labels"])
            and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and "egress" not in policy["spec"]
        ]
        expect(deny_all, name, "no deny-all policy applies to it")
    check_scrapers(policies, pods)
    labels = pods["execution-worker"]["metadata"]["labels"]
    ports = {
        port["port"]
        for policy in policies
        if selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("egress", ())
        for port in rule["ports"]
    }
    collector = config.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    allowed = {6379, 53} | ({int(collector.rsplit(":", 1)[1])} if collector else set())
    expect(ports == allowed, "execution-worker", f"may connect to ports {ports}, expected {allowed}")


def check_scrapers(policies, pods):
    """Whoever scrapes metrics cannot call contracts, and callers cannot read metrics."""
    scraper = {"kubernetes.io/metadata.name": "monitoring"}
    for name in ("execution-api", "execution-worker"):
        labels = pods[name]["metadata"]["labels"]
        for policy in policies:
            if not selects(policy["spec"]["podSelector"], labels):
                continue
            for rule in policy["spec"].get("ingress", ()):
                ports = {port["port"] for port in rule["ports"]}
                scrapes = any(peer.get("namespaceSelector", {}).get("matchLabels") == scraper for peer in rule["from"])
                expect(scrapes == (ports == {"metrics"}), name, f"the same peers may use the ports {sorted(ports)}")


def check_references(objects, find):
    pods = {obj["metadata"]["name"]: pod_of(obj) for obj in objects if pod_of(obj)}
    for obj in objects:
        where, spec = obj["metadata"]["name"], obj.get("spec", {})
        if obj["kind"] in ("Service", "PodDisruptionBudget"):
            selector = spec["selector"] if "matchLabels" in spec["selector"] else {"matchLabels": spec["selector"]}
            chosen = [pod for pod in pods.values() if selects(selector, pod["metadata"]["labels"])]
            expect(len(chosen) == 1, where, f"{obj['kind']} selects {len(chosen)} workloads instead of one")
        if obj["kind"] == "StatefulSet":
            expect(find("Service", spec["serviceName"]), where, "its service does not exist")
        if obj["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            expect(find(target["kind"], target["name"]), where, f"scale target does not exist: {target}")
    return pods


def check_target(target):
    objects = render(target)
    table = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}

    def find(kind, name):
        return table.get((kind, name))

    for obj in objects:
        where = f"{target}: {obj['kind']} {obj['metadata']['name']}"
        if obj["kind"] == "ScaledObject":
            check_scaled_object(obj, where, find)
        elif obj["kind"] == "TriggerAuthentication":
            check_fields(obj, TRIGGER_AUTHENTICATION, where)
        elif obj["kind"] == "PodMonitor":
            check_pod_monitor(obj, where, objects)
        elif obj["kind"] == "PrometheusRule":
            check_rules(obj, where)
        else:
            check_schema(obj, where)
        if pod_of(obj):
            check_pod(obj, pod_of(obj), where)
    pods = check_references(objects, find)
    check_secrets(objects, target)
    if target in FARMS:
        [config] = [obj["data"] for kind, obj in table.items() if kind[1].startswith("execution-config-")]
        check_graces(pods, config)
        check_worker(pods["execution-worker"]["spec"])
        check_room(pods, find)
        check_policies(objects, pods, config)
    return len(objects)


def check_seccomp():
    """The profile denies by default, allows threads and namespaces, and blocks dangerous system calls."""
    where = "chromium.json"
    profile = json.loads((ROOT / "deploy/seccomp/chromium.json").read_text(encoding="utf-8"))
    expect(profile["defaultAction"] == "SCMP_ACT_ERRNO", where, "does not deny by default")
    allowed = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }
    expect({"clone", "unshare", "chroot"} <= allowed, where, "Chromium's sandbox cannot start")
    never = {"mount", "umount2", "setns", "bpf", "keyctl", "add_key", "init_module", "kexec_load", "reboot"}
    never |= {"pivot_root", "perf_event_open", "userfaultfd", "open_by_handle_at", "io_uring_setup", "clone3"}
    expect(not never & allowed, where, f"allows forbidden system calls: {sorted(never & allowed)}")
    clone3 = [rule for rule in profile["syscalls"] if "clone3" in rule["names"]]
    expect([rule.get("errnoRet") for rule in clone3] == [38], where, "clone3 must fail with ENOSYS")
    # Only Docker evaluates conditions; containerd would apply every rule.
    conditional = any({"includes", "excludes"} & set(rule) for rule in profile["syscalls"])
    expect(not conditional, where, "contains conditional rules")


def main():
    counts = {target: check_target(target) for target in TARGETS}
    check_seccomp()
    for problem in problems:
        print(problem, file=sys.stderr)
    summary = ", ".join(f"{target} {count}" for target, count in counts.items())
    print(f"kubernetes: objects {summary}; releases {', '.join(RELEASES)}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
