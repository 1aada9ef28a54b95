"""A finished run as a submission to a merging contest: predictions, a class that rebuilds the model, and a report.

The pack is a tar file that is extracted over a checkout of the contest's starter kit. What is in kit_files/ is copied
into it and runs there without this package, so those files import nothing from it. The rule: what the pack predicts in
the starter kit is what is predicted here.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.submission.config import PackConfig, SubmissionConfig, method_name
    from evomerge.submission.conventions import generation_request, right_requests
    from evomerge.submission.csv_rows import Row, read_rows, write_predictions
    from evomerge.submission.merged_model import refuse_quantised_base
    from evomerge.submission.pack import Pack, write_pack
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Pack",
    "PackConfig",
    "Row",
    "SubmissionConfig",
    "generation_request",
    "method_name",
    "read_rows",
    "refuse_quantised_base",
    "right_requests",
    "write_pack",
    "write_predictions",
]
