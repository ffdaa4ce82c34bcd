"""Pulls an image as a kubelet does: ImageService.PullImage of the Kubernetes runtime interface, by gRPC.

cri_pull.py SOCKET IMAGE [USER:PASSWORD]; prints the image's reference. The messages have few fields that matter, so
they are written and read here: PullImageRequest{1: ImageSpec{1: image}, 2: AuthConfig{1: username, 2: password}} and
PullImageResponse{1: image_ref}.
"""

import sys

import grpc


def field(payload: bytes, number: int = 1) -> bytes:
    """A field of a message, by length."""
    length, prefix = len(payload), bytes([number << 3 | 2])
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
    socket, image = sys.argv[1:3]
    request = field(field(image.encode()))
    for login in sys.argv[3:]:
        user, _, password = login.partition(":")
        request += field(field(user.encode()) + field(password.encode(), 2), 2)
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        pull = channel.unary_unary("/runtime.v1.ImageService/PullImage")
        answer = pull(request, timeout=600, wait_for_ready=True)
    print(first(answer).decode())


main()
