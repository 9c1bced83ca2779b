"""What an orchestrator does: one change after another, each based on the version that it knows.

    python3 example.py unix:/run/penstock/api.sock
"""

import sys

import grpc
import rpc_pb2
from penstock.v1 import definitions_pb2 as api
from penstock.v1.definitions_pb2_grpc import DefinitionsStub
from penstock.v1.service_pb2 import Backend, Service, ServiceSet


def violations(error):
    """Every path and reason of an INVALID_ARGUMENT."""
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    found = []
    for detail in rpc_pb2.Status.FromString(details).details:
        bad = rpc_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [(violation.field, violation.description) for violation in bad.field_violations]
    return found


def main(target):
    definitions = DefinitionsStub(grpc.insecure_channel(target))

    # A new set in place of whatever is there. It is on disk and in force when this returns.
    web = Service(name="web", vip="192.0.2.1", port=80, protocol="tcp", forwarding="ipip")
    web.backends.add(address="10.1.1.2")
    web.backends.add(address="10.1.2.2", weight=50)
    written = definitions.Replace(api.ReplaceRequest(definitions=ServiceSet(version="first", services=[web])))
    print(f"version {written.version} is in force")

    # Other backends, unless somebody else has changed anything since.
    request = api.SetBackendsRequest(service="web", expected_version=written.version)
    request.backends.extend([Backend(address="10.1.1.2"), Backend(address="10.1.2.2"), Backend(address="10.1.3.2")])
    written = definitions.SetBackends(request)
    print(f"version {written.version} is in force")
    try:
        definitions.SetBackends(request)
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}")

    # Would this be taken?
    web.forwarding = "teleport"
    try:
        definitions.UpsertService(api.UpsertServiceRequest(service=web, dry_run=True))
    except grpc.RpcError as error:
        for path, reason in violations(error):
            print(f"{error.code().name}: {path}: {reason}")

    # The set in force, and each that follows: here the first is enough.
    watch = definitions.Watch(api.WatchRequest())
    newest = next(watch).definitions
    watch.cancel()
    for service in newest.services:
        print(f"{newest.version}: {service.name} has {len(service.backends)} backends")


if __name__ == "__main__":
    main(sys.argv[1])
