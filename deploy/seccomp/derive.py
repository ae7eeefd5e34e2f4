#!/usr/bin/env python3
"""Derives chromium.json from a Docker Engine's own default profile.

    deploy/seccomp/derive.py engine/profiles/seccomp/default.json >deploy/seccomp/chromium.json

Docker's file says for each rule with which capabilities, on which architecture and from which
kernel on it holds. Only Docker reads that: containerd, which reads the profile under Kubernetes,
would apply every rule. So the conditions are resolved here, for a container without capabilities on
x86-64 or arm64, and the result is a flat list that both read alike.

To it are added the three calls by which Chromium builds its own sandbox: a new user namespace, in
which it may make the others (clone, unshare) and change into an empty root (chroot). What Docker
answers with "not implemented" keeps that answer: with "not permitted" for clone3, the C library
would not fall back, and no thread could start. Left out is io_uring, as later releases of Docker do:
nothing here needs it, and many of the kernel's holes were in it.
"""

import json
import sys

ARCHITECTURES = {"amd64", "x86", "x32", "arm64", "arm"}
SANDBOX = ["chroot", "clone", "unshare"]
LEFT_OUT = ["io_uring_enter", "io_uring_register", "io_uring_setup"]


def holds(rule):
    """Whether a rule holds without capabilities on one of the architectures."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    arches = set(includes.get("arches", ARCHITECTURES))
    return not includes.get("caps") and bool(arches & ARCHITECTURES) and not (
        set(excludes.get("arches", ())) >= ARCHITECTURES
    )


def flat(rule):
    """A rule without its conditions, and without what is decided here."""
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
