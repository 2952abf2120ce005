"""How well a prediction fits one image: a number for each task, by which the report ranks images.

H, W: height and width of the image, K: classes.
"""
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from freqdino.data.image_reading import read_label_map
from freqdino.data.panoptic_png import read_segment_ids
from freqdino.data.segmentation import decode_rle, encode_rle, polygon_points, rasterise
from freqdino.evaluation.panoptic_quality import average_quality, match_segments

INSTANCE_THRESHOLD = 0.5        # of the scores of instances that count
DESCRIPTIONS = {
    "panoptic": "panoptic quality of the image (things and stuff, in percent)",
    "instance": "mean, over the objects of the ground truth, of the best IoU with an instance of the same class and a "
                f"score of at least {INSTANCE_THRESHOLD} (masks where there are masks, else boxes; in percent)",
    "semantic": "mean IoU over the classes that the image's ground truth or prediction has (in percent)",
}


def score_image(output: dict, record: dict, task: str, metadata: Metadata) -> float | None:
    """The score that DESCRIPTIONS tells, in percent; None where it is not defined: an image without ground truth."""
    score = {"panoptic": score_panoptic, "instance": score_instances, "semantic": score_semantic}[task]
    value = score(output, record, metadata)
    return None if value is None or np.isnan(value) else 100 * float(value)


def score_panoptic(output: dict, record: dict, metadata: Metadata) -> float:
    ids, segments = output["panoptic_seg"]
    things = set(metadata.thing_dataset_id_to_contiguous_id.values())
    truth = [{"isthing": segment["category_id"] in things, **segment} for segment in record["segments_info"]]
    # Some data sets count the classes of things and of stuff apart: both kinds have a class 0.
    truth, found = ([{**segment, "category_id": (bool(segment["isthing"]), segment["category_id"])}
                     for segment in listed] for listed in (truth, segments))
    categories = sorted({segment["category_id"] for segment in (*truth, *found)})
    statistics = match_segments(read_segment_ids(record["pan_seg_file_name"]), ids.cpu().numpy().astype(np.int64),
                                truth, found, categories)
    return average_quality(statistics, [isthing for isthing, _ in categories])["All"][0]


def score_instances(output: dict, record: dict, metadata: Metadata) -> float | None:
    instances = output["instances"]
    instances = instances[instances.scores >= INSTANCE_THRESHOLD].to("cpu")
    objects = [annotation for annotation in record["annotations"] if not annotation.get("iscrowd", 0)]
    if not objects:
        return None
    with_masks = instances.has("pred_masks") and all("segmentation" in annotation for annotation in objects)
    classes = instances.pred_classes.numpy()
    if with_masks:
        found = [encode_rle(mask) for mask in instances.pred_masks.numpy().astype(bool)]
        truth = [encode_rle(mask_of(annotation["segmentation"], *instances.image_size)) for annotation in objects]
    else:
        corners = instances.pred_boxes.tensor.numpy().astype(np.float64)
        found = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        truth = np.array([BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
                          for annotation in objects], dtype=np.float64)
    if not len(found):
        return 0.0
    overlap = mask_util.iou(found, truth, [0] * len(truth))                  # (found, truth)
    same_class = classes[:, None] == np.array([annotation["category_id"] for annotation in objects])
    return (overlap * same_class).max(axis=0).mean()


def score_semantic(output: dict, record: dict, metadata: Metadata) -> float:
    scores = output["sem_seg"]
    truth = read_label_map(record["sem_seg_file_name"]).astype(np.int64)
    found = scores.argmax(dim=0).cpu().numpy()
    counted = truth != metadata.get("ignore_label", 255)
    truth, found, number = truth[counted], found[counted], len(scores)
    both = np.bincount(truth[truth == found], minlength=number)
    either = np.bincount(truth, minlength=number) + np.bincount(found, minlength=number) - both
    return (both[either > 0] / either[either > 0]).mean() if counted.any() else np.nan


def mask_of(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Polygons or an RLE as a mask (H, W)."""
    if isinstance(segmentation, dict):
        return decode_rle(segmentation)
    return rasterise(polygon_points(segmentation), height, width)
