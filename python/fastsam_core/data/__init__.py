"""The import path `data.annotator`, as users of the Ultralytics package know it."""
