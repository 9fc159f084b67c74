"""Writers of results: COCO, SA-1B, YOLO segment lines, SAM's dicts, tables, crops and supervision."""
