"""Asks for the five likeliest classes of a picture: `python client.py localhost:9000 https://example.org/cat.png`."""

import sys

import grpc
from images_pb2 import Picture
from images_pb2_grpc import ImageClassificationStub


def main(address: str, url: str) -> None:
    with grpc.insecure_channel(address) as channel:
        labels = ImageClassificationStub(channel).Predict(Picture(url=url), timeout=60)
    for name, probability in zip(labels.classes, labels.probabilities, strict=True):
        print(f"{probability:6.1%}  {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
