"""Tries each kind of write at a node that another feed rules, and prints how it is refused, a line each.

    refused.py API
"""

import sys

import grpc
from penstock.v1 import definitions_pb2 as api
from penstock.v1.definitions_pb2_grpc import DefinitionsStub


def main(target):
    stub = DefinitionsStub(grpc.insecure_channel(target))
    for call, request in [
        (stub.Replace, api.ReplaceRequest()),
        (stub.UpsertService, api.UpsertServiceRequest()),
        (stub.DeleteService, api.DeleteServiceRequest(name="web")),
        (stub.SetBackends, api.SetBackendsRequest(service="web")),
    ]:
        try:
            print("taken", call(request, timeout=10))
        except grpc.RpcError as error:
            print(error.code().name, error.details())


if __name__ == "__main__":
    main(sys.argv[1])
