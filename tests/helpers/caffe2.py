"""A ResNet's weights by the names that Caffe2's Detectron has for them."""
import re

# Detectron2's names -> Detectron's, in this order.
CAFFE2_SPELLING = ((r"^stem\.conv1\.norm", "res_conv1.norm"), (r"^stem\.", ""), (r"\.shortcut", ".branch1"),
                   (r"\.conv1", ".branch2a"), (r"\.conv2", ".branch2b"), (r"norm\.weight$", "bn_s"),
                   (r"norm\.bias$", "bn_b"), (r"weight$", "w"), (r"\.", "_"))


def caffe2_blobs(state):
    """Without the statistics, which there are folded into scale and shift of the normalisation."""
    blobs = {}
    for name, tensor in state.items():
        if "running" not in name:
            for pattern, spelling in CAFFE2_SPELLING:
                name = re.sub(pattern, spelling, name)
            blobs[name] = tensor.numpy()
    return blobs
