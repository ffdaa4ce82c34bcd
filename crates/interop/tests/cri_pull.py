"""Pulls an image as a kubelet does: ImageService.PullImage of the Kubernetes runtime interface, by gRPC.

cri_pull.py SOCKET IMAGE; prints the image's reference. Both messages have one field that matters, so they are
written and read here: PullImageRequest{1: ImageSpec{1: image}} and PullImageResponse{1: image_ref}.
"""

import sys

import grpc


def field(payload: bytes) -> bytes:
    """Field 1 of a message, by length."""
    length, prefix = len(payload), b"\x0a"
    while length > 0x7F:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    return prefix + bytes([length]) + payload


def first(message: bytes) -> bytes:
    """The payload of field 1, which is short."""
    if len(message) < 2 or message[0] != 0x0A or message[1] > 0x7F:
        raise ValueError(f"not a PullImageResponse: {message!r}")
    return message[2 : 2 + message[1]]


def main() -> None:
    socket, image = sys.argv[1:]
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        pull = channel.unary_unary("/runtime.v1.ImageService/PullImage")
        answer = pull(field(field(image.encode())), timeout=60, wait_for_ready=True)
    print(first(answer).decode())


main()
