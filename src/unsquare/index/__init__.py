"""Which images a source has: their shapes, labels and splits, found without decoding a pixel."""

from unsquare.index.header import Header, read_header
from unsquare.index.holdout import with_validation
from unsquare.index.remarks import class_counts, find_remarks
from unsquare.index.scan import ScanResult, scan, scan_source
from unsquare.index.table import Problem, Remark, ShapeIndex
from unsquare.index.trainable import check_trainable

__all__ = [
    "Header",
    "Problem",
    "Remark",
    "ScanResult",
    "ShapeIndex",
    "check_trainable",
    "class_counts",
    "find_remarks",
    "read_header",
    "scan",
    "scan_source",
    "with_validation",
]
