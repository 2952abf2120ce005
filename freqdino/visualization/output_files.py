"""Where pictures are written: a name for each, and none over an input."""
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from freqdino.data.image_files import IMAGE_SUFFIXES


def output_paths(records: list[dict], output: Path) -> list[Path]:
    """``output`` itself if it is named as an image, which holds one record only.

    Else a PNG in the folder ``output`` for every record, named after its image; images of one name are numbered.
    ValueError for several records and one file, and where a picture would take the place of one of the images.
    """
    if output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir():
        if len(records) > 1:
            raise ValueError(f"--output {output} is a file, but there are {len(records)} images; name a folder")
        paths = [output] * len(records)
    else:
        seen, names = Counter(), {}     # names: the keys of a dictionary, in their order
        for record in records:
            name = stem = Path(record["file_name"]).stem
            while name in names:        # of an image of the same name, or of one that is called like a numbered one
                seen[stem] += 1
                name = f"{stem}_{seen[stem] + 1}"
            names[name] = None
        paths = [output / f"{name}.png" for name in names]
    refuse_overwriting(paths, [record["file_name"] for record in records])
    return paths


def refuse_overwriting(paths: Iterable[Path], inputs: Iterable[str]) -> None:
    """ValueError if one of ``paths`` is one of the files ``inputs``, under whatever name."""
    read = {os.path.realpath(name) for name in inputs}
    for path in paths:
        if os.path.realpath(path) in read:
            raise ValueError(f"--output would overwrite the input {path}; name another folder or file")
