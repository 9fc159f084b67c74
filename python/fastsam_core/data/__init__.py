"""The import paths `data.annotator` and `data.converter`, as users of the Ultralytics package know them."""
