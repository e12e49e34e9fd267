"""A bare gRPC server that reads Recommend's request and answers with a ready message: what serving costs without work.

`python benchmarks/echo_server.py FILE` answers with the serialised RecommendResponse of FILE and prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc

from headwater.v1 import recommendation_service_pb2 as pb

SERVICE, METHOD = "headwater.v1.RecommendationService", "Recommend"


async def main(response: pb.RecommendResponse) -> None:
    """Serve until the process is ended."""

    async def answer(request: pb.RecommendRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.RecommendResponse:
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        answer, pb.RecommendRequest.FromString, pb.RecommendResponse.SerializeToString
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    sys.stdout.write(f"{server.add_insecure_port('127.0.0.1:0')}\n")
    sys.stdout.flush()
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(pb.RecommendResponse.FromString(Path(sys.argv[1]).read_bytes())))
