"""Changes a node's definitions again and again, and watches them by a stream of their own.

    replace.py API DEFINITIONS REPLACEMENTS CHANGES

DEFINITIONS is native JSON, whose field names are those of the messages. Prints one JSON document of what it saw; what must not be ends it.
"""

import json
import sys
import threading
import time

import grpc
from example import violations
from google.protobuf import json_format
from penstock.v1 import definitions_pb2 as api
from penstock.v1.definitions_pb2_grpc import DefinitionsStub
from penstock.v1.service_pb2 import Backend, Service, ServiceSet

# Within so many seconds a watcher sees what was acknowledged.
PATIENCE = 10


class Watcher(threading.Thread):
    """Notes the sets that a Watch stream gives, and when."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.seen = []
        self.came = threading.Condition()
        self.stream = DefinitionsStub(grpc.insecure_channel(target)).Watch(api.WatchRequest())

    def run(self):
        try:
            for message in self.stream:
                with self.came:
                    self.seen.append((time.monotonic(), message.definitions))
                    self.came.notify_all()
        except grpc.RpcError:
            pass

    def until(self, version):
        with self.came:
            if not self.came.wait_for(lambda: self.seen and self.seen[-1][1].version == version, PATIENCE):
                sys.exit(f"the watcher has not seen {version}, but {[set.version for _, set in self.seen[-3:]]}")


class Writer:
    """Writes, each time on top of the version before, and notes what was acknowledged."""

    def __init__(self, target):
        self.stub = DefinitionsStub(grpc.insecure_channel(target))
        self.acknowledged = []
        self.took = []

    def write(self, call, request):
        if self.acknowledged:
            request.expected_version = self.acknowledged[-1][1]
        begun = time.monotonic()
        answer = call(request, timeout=PATIENCE)
        now = time.monotonic()
        if not answer.changed:
            sys.exit(f"nothing changed: {request}")
        self.took.append(now - begun)
        self.acknowledged.append((now, answer.version))

    def in_force(self):
        return self.stub.Get(api.GetRequest(), timeout=PATIENCE).definitions


def refusal(call, request):
    """How a write was refused that must be: the name of its code, its message, its paths and reasons."""
    try:
        answer = call(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        return {"code": error.code().name, "message": error.details(), "violations": violations(error)}
    sys.exit(f"taken: {request}\n{answer}")


def other(number):
    """A service that comes and goes beside those that are asked."""
    service = Service(name=f"other-{number % 20}", vip=f"192.0.2.{100 + number % 20}", port=443, protocol="tcp")
    service.forwarding = "ipip"
    service.backends.add(address=f"10.1.1.{2 + number % 3}", weight=1 + number)
    return service


def reweighted(backends, number):
    """The same backends with other weights; one of them drains each third time."""
    changed = []
    for index, backend in enumerate(backends):
        one = Backend()
        one.CopyFrom(backend)
        one.weight = 50 + (number * 37 + index * 61) % 100
        one.state = "draining" if number % 3 == 0 and index == number // 3 % len(backends) else "active"
        changed.append(one)
    return changed


def main(target, file, replacements, changes):
    with open(file, encoding="utf-8") as text:
        base = json_format.ParseDict(json.load(text), ServiceSet())
    watcher, writer = Watcher(target), Writer(target)
    watcher.start()

    for number in range(1, replacements + 1):
        whole = ServiceSet(version=f"replaced {number}")
        for service in base.services:
            one = whole.services.add()
            one.CopyFrom(service)
            del one.backends[:]
            one.backends.extend(reweighted(service.backends, number))
        whole.services.extend(other(each) for each in range(number, number + number % 7))
        writer.write(writer.stub.Replace, api.ReplaceRequest(definitions=whole))

    for number in range(1, changes + 1):
        service = base.services[number % len(base.services)]
        if number % 4 == 0:
            writer.write(writer.stub.UpsertService, api.UpsertServiceRequest(service=other(number + 1000)))
        else:
            request = api.SetBackendsRequest(service=service.name, backends=reweighted(service.backends, number + 1))
            writer.write(writer.stub.SetBackends, request)

    # None of these may change anything.
    before = writer.in_force()
    newest = writer.acknowledged[-1][1]
    refused = {}
    refused["stale"] = refusal(
        writer.stub.UpsertService,
        api.UpsertServiceRequest(service=other(1), expected_version=writer.acknowledged[-2][1]),
    )
    wrong = other(2)
    wrong.protocol = "sctp"
    wrong.backends.add(address="10.1.2", weight=70000)
    refused["wrong"] = refusal(writer.stub.UpsertService, api.UpsertServiceRequest(service=wrong))
    twice = ServiceSet(services=[base.services[0], base.services[0]])
    refused["twice"] = refusal(writer.stub.Replace, api.ReplaceRequest(definitions=twice))
    absent = api.SetBackendsRequest(service="nobody's")
    refused["absent"] = refusal(writer.stub.SetBackends, absent)
    dry = writer.stub.Replace(api.ReplaceRequest(definitions=base, dry_run=True), timeout=PATIENCE)
    unchanged = writer.in_force() == before

    # One more, so that all before must have been told.
    gone = next(service.name for service in before.services if service.name.startswith("other-"))
    writer.write(writer.stub.DeleteService, api.DeleteServiceRequest(name=gone))
    last = writer.acknowledged[-1][1]
    watcher.until(last)
    watcher.stream.cancel()

    order = {version: index for index, (_, version) in enumerate(writer.acknowledged)}
    told = [(when, order[set.version]) for when, set in watcher.seen if set.version in order]
    strangers = [set.version for _, set in watcher.seen[1:] if set.version not in order]
    late, at = [], 0
    for index, (when, _) in enumerate(writer.acknowledged):
        while told[at][1] < index:
            at += 1
        late.append(told[at][0] - when)
    took = sorted(writer.took)
    print(
        json.dumps(
            {
                "acknowledged": len(writer.acknowledged),
                "last": last,
                "told": len(told),
                "strangers": strangers,
                "backwards": sum(one[1] >= other[1] for one, other in zip(told, told[1:])),
                "told_after_ms": max(late) * 1e3,
                "write_ms": {"median": took[len(took) // 2] * 1e3, "worst": took[-1] * 1e3},
                "before_refusals": newest,
                "refused": refused,
                "dry_run": {"changed": dry.changed, "version": dry.version, "left_alone": unchanged},
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
