"""What OpenMMLab's checkpoints have in common: entries of no use here, and recipes that these tables are not about."""

LEFT = {
    r"ema_": "copy of averaged weights; the weights proper are converted",
    r"data_preprocessor\.": "normalisation of images, which the configuration has",
}
FOREIGN_RECIPES = {
    r"style\s*=\s*['\"]caffe['\"]": "the backbone is of caffe style: BGR images of standard deviation 1, strides "
                                    "in the 1 × 1 convolutions",
    r"(to_rgb|bgr_to_rgb)\s*=\s*False": "images are read as BGR",
}
