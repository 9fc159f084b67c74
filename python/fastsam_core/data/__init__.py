"""The modules `data.annotator` and `data.converter`, import paths of the Ultralytics package."""
