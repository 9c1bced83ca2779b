"""Writes as fast as it is answered, and keeps account of what was acknowledged; the node may die at any moment.

    hammer.py API SERVICE…

The weights of the SERVICES' backends are changed, by turns; other services come and go beside them. For each line on stdin it looks at what is
in force after the node's death, compares, prints one JSON document, and writes on.
"""

import json
import sys
import threading

import grpc
from google.protobuf import json_format
from penstock.v1 import definitions_pb2 as api
from penstock.v1.definitions_pb2_grpc import DefinitionsStub
from penstock.v1.service_pb2 import Service, ServiceSet

OTHERS = 30
# For the node to be there again.
PATIENCE = 30


def stub(target):
    # gRPC would wait longer and longer before it connects again.
    options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)]
    return DefinitionsStub(grpc.insecure_channel(target, options))


def change(number, definitions, changed):
    """The next write: how it is called, what is asked, and the services that there are after it."""
    after = ServiceSet()
    after.CopyFrom(definitions)
    services = {service.name: service for service in after.services}
    if number % 3 == 0:
        service = services[changed[number // 3 % len(changed)]]
        for index, backend in enumerate(service.backends):
            backend.weight = 50 + (number * 37 + index * 61) % 100
        request = api.SetBackendsRequest(service=service.name, backends=service.backends)
        return "SetBackends", request, after
    name = f"other-{number % OTHERS}"
    if number % 50 == 1:
        after.services.sort(key=lambda service: service.name)
        services[changed[0]].backends[0].weight = 50 + number % 100
        after.version = f"whole {number}"
        return "Replace", api.ReplaceRequest(definitions=after), after
    if name in services and number % 7 == 0:
        after.services.remove(services[name])
        return "DeleteService", api.DeleteServiceRequest(name=name), after
    service = Service(name=name, vip=f"192.0.2.{100 + number % OTHERS}", port=443, protocol="tcp", forwarding="ipip")
    service.backends.add(address="10.1.1.2", weight=1 + number % 60000)
    if name in services:
        after.services.remove(services[name])
    after.services.append(service)
    return "UpsertService", api.UpsertServiceRequest(service=service), after


def like_get(service):
    """As Get shows it: what has a default is said."""
    return json_format.MessageToDict(service, preserving_proto_field_name=True)


def agrees(expected, got):
    """Whether the services are those that were written: the fields that a write gave, with the values that it gave them."""
    wanted, there = ({service.name: like_get(service) for service in set.services} for set in (expected, got))

    def within(one, other):
        if isinstance(one, dict):
            return all(key in other and within(value, other[key]) for key, value in one.items())
        if isinstance(one, list):
            return len(one) == len(other) and all(map(within, one, other))
        return one == other

    return wanted.keys() == there.keys() and within(wanted, there)


def main(target, changed):
    lines = iter(sys.stdin.readline, "")
    number, acknowledged = 0, stub(target).Get(api.GetRequest()).definitions
    while True:
        calls, written, in_flight = stub(target), 0, None
        while in_flight is None:
            number += 1
            name, request, after = change(number, acknowledged, changed)
            try:
                answer = getattr(calls, name)(request, timeout=PATIENCE)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    sys.exit(f"{name}: {error.code().name}: {error.details()}")
                in_flight = name, after, error.details()
            else:
                after.version = answer.version
                acknowledged, written = after, written + 1
        if next(lines, None) is None:
            return
        got = stub(target).Get(api.GetRequest(), wait_for_ready=True, timeout=PATIENCE).definitions
        name, after, details = in_flight
        is_acknowledged, is_next = agrees(acknowledged, got), agrees(after, got)
        document = {
            "written": written,
            "last": acknowledged.version,
            "in_force": got.version,
            "services": len(got.services),
            "in_flight": name,
            "its_error": details,
            "state": "acknowledged" if is_acknowledged else "in flight" if is_next else "another",
        }
        if not is_acknowledged and not is_next:
            document["expected"] = [like_get(service) for service in acknowledged.services]
            document["got"] = [like_get(service) for service in got.services]
        print(json.dumps(document), flush=True)
        acknowledged = got


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
