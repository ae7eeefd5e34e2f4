#!/usr/bin/env python3
"""Derives chromium.json from the default seccomp profile of Docker Engine.

    deploy/seccomp/derive.py engine/profiles/seccomp/default.json >deploy/seccomp/chromium.json

Docker's file has conditions for each rule: capabilities, architecture, kernel version. Only Docker
evaluates them. Under Kubernetes, containerd reads the profile and would apply every rule. This script
therefore resolves the conditions, for a container without capabilities on x86-64 or arm64. The result
is a flat list that Docker and containerd apply alike.

The script then changes three things:

- It allows the three system calls that Chromium's own sandbox needs. clone and unshare create a user
  namespace and the namespaces in it; chroot enters an empty root.
- It keeps Docker's answer "not implemented". With "not permitted" for clone3, the C library would not
  fall back to clone, and no thread could start.
- It leaves out io_uring, as later releases of Docker do. Nothing here needs it, and many kernel
  vulnerabilities were in it.
"""

import json
import sys

ARCHITECTURES = {"amd64", "x86", "x32", "arm64", "arm"}
SANDBOX = ["chroot", "clone", "unshare"]
LEFT_OUT = ["io_uring_enter", "io_uring_register", "io_uring_setup"]


def holds(rule):
    """Returns whether a rule applies without capabilities on one of the architectures."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    arches = set(includes.get("arches", ARCHITECTURES))
    return not includes.get("caps") and bool(arches & ARCHITECTURES) and not (
        set(excludes.get("arches", ())) >= ARCHITECTURES
    )


def flat(rule):
    """Returns a rule without its conditions and without the calls that this script decides on."""
    names = [name for name in rule["names"] if name not in SANDBOX + LEFT_OUT]
    kept = {"names": names, "action": rule["action"]}
    for field in ("errnoRet", "args"):
        if rule.get(field):
            kept[field] = rule[field]
    return kept


def derive(default):
    rules = [flat(rule) for rule in default["syscalls"] if holds(rule)]
    return {
        "defaultAction": default["defaultAction"],
        "architectures": [
            "SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_AARCH64",
            "SCMP_ARCH_ARM",
        ],
        "syscalls": [{"names": SANDBOX, "action": "SCMP_ACT_ALLOW"}]
        + [rule for rule in rules if rule["names"]],
    }


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        json.dump(derive(json.load(file)), sys.stdout, indent=1)
        print()
