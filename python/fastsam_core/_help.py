"""Text of `fastsam help`, for all commands or one."""

from __future__ import annotations

from . import __version__
from .config import FIELDS

_OVERVIEW = """\
fastsam {version}: Segment Anything from the command line

  fastsam predict source=photo.jpg                                  segment everything, with the bundled sam_nano
  fastsam predict model=sam_b.pt source=photo.jpg bboxes=[439,437,524,709]
  fastsam predict model=sam_b.pt source=photo.jpg points=[[900,370]] labels=[1]
  fastsam predict source=photos/ points_stride=16 save_txt=True     a folder, a glob, a video, a URL ...
  fastsam predict model=FastSAM-s.pt source=photos/                 FastSAM; or YOLO: yolov8n.pt, yolo11n-seg.pt ...
  fastsam predict model=sam_b.pt source=photo.jpg texts=["a dog"]   objects that a text describes
  fastsam annotate data=photos/ model=sam_b.pt                      one label file per image
  fastsam annotate data=photos/ det_model=yolov8x.pt formats=[yolo,coco]
  fastsam tiles source=big.tif output=objects.gpkg                  an image of any size, in overlapping tiles
  fastsam convert data=labels/ from=yolo to=coco output=labels.json  convert label files
  fastsam convert yolov8n.pt yolov8n.safetensors                    convert a checkpoint to safetensors
  fastsam val data=labels.json images=photos/                       evaluate a model on ground-truth masks
  fastsam info model=sam_b.pt                                       layers and parameters
  fastsam doctor                                                    versions, compiled operations, threads
  fastsam version

fastsam help predict (or annotate, tiles, convert, val, info) lists the options of that command.
Write key=value, --key value or --key=value; a switch without a value means True.

Exit status: 0 on success; 1 if a run fails; 2 for an invalid command line; 130 after Ctrl-C.
FASTSAM_DEBUG=1 shows the traceback of an error."""

_PROMPTS = {
    "source=": "a file, folder, glob, list file, URL or camera number; default: a sample image",
    "bboxes=[x1,y1,x2,y2]": "prompt: one box, or one per object, in pixels",
    "points=[[x,y],...]": "prompt: [x,y], N points for N objects, or N lists of points",
    "labels=[1,...]": "labels of the points: 1 foreground, 0 background",
    "masks=m.npy": "prompt: an .npy file, (H, W) or (N, H, W), or a PNG that is 0 outside of the object",
    "multimask_output=False": "return three masks per prompt instead of one",
    'texts=["a dog",...]': "prompt: texts that describe the objects; needs the extra `text`",
}
_CONVERT = {
    "data=": "labels to convert: a folder, or a COCO .json file",
    "output=": "where to write: a folder, or a .json file for coco",
    "from=": "format of the labels: yolo, coco, sa1b or labelme",
    "to=": "format to write: yolo, coco, sa1b, labelme or labelmap",
    "images=": "folder of the images: for YOLO labels, LabelMe, and COCO files without sizes",
    "names=": "class names: [cat,dog], or a file with them; default: those of the labels",
    "on_error=raise": "if an object is malformed: stop (raise), or leave it out and go on (skip)",
    "tolerance=0": "to yolo, coco, labelme: simplify polygons by at most this many pixels",
    "scores=False": "to yolo: also write the score of each object, or without one its predicted IoU",
    "polygons=False": "to coco: polygons instead of RLE, for tools that read only these, such as SAHI",
    "first_id=1": "to coco: id of the first annotation",
    "embed_images=False": "to labelme: embed the images in the files",
    "values=object": "to labelmap: pixel values are object numbers, or class ids (class)",
    "order=area": "to labelmap: which object is on top: the smaller (area), higher-scored (score) or later (index)",
}
_INFO = {
    "model=": "checkpoint name or path; default: the bundled sam_nano",
    "detailed=False": "also print one row per parameter",
}


_USAGE = {
    "predict": "fastsam predict key=value ...",
    "annotate": "fastsam annotate data=<folder of images> key=value ...",
    "tiles": "fastsam tiles source=<image> key=value ...",
    "val": "fastsam val data=<ground-truth masks> key=value ...",
    "convert": "fastsam convert from=yolo to=coco key=value ... | x.pt x.safetensors",
    "info": "fastsam info key=value ...",
}


def help_text(command: str | None = None, default_model: str = "") -> str:
    """Return the help of a command that has options, or the overview for any other."""
    if command not in _USAGE:
        return _OVERVIEW.format(version=__version__)
    options = command_options(command, default_model)
    return "\n".join([_USAGE[command], "", *(f"  {key:<42}{help}" for key, help in options.items())])


def command_options(command: str, default_model: str = "") -> dict[str, str]:
    """Return the options of a command, as `key=` or `key=default` -> help."""
    if command == "predict":
        return _PROMPTS | _options(default_model)
    if command == "annotate":
        from .annotate.command import OPTIONS

        return _keys(OPTIONS)
    if command == "tiles":
        from .config import EVERYTHING_OPTIONS
        from .tiles.command import OPTIONS as TILES

        everything = {key: help for key, help in _options("").items() if key.split("=")[0] in EVERYTHING_OPTIONS}
        return _keys(TILES) | everything
    if command == "val":
        from .evaluate.command import OPTIONS as VAL

        return _keys(VAL)
    return {"convert": _CONVERT, "info": _INFO}[command]


def _keys(options: dict[str, str]) -> dict[str, str]:
    return {f"{key}=": help for key, help in options.items()}


def _options(default_model: str) -> dict[str, str]:
    """Return the options of `Config` that have an effect, as `key=default` -> help."""
    lines = {}
    for key, field in FIELDS.items():
        if not field.metadata.get("ignored") and key not in ("mode", "task", "retina_masks", "rect"):
            default = default_model if key == "model" else field.default
            default_text = f"{default:.4g}" if isinstance(default, float) else str(default)
            lines[f"{key}={'' if default is None else default_text}"] = field.metadata["help"]
    return lines
