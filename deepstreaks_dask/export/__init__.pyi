from .candidates import Submission, candidate_table, export_candidates, observations

__all__ = [
    "Submission",
    "candidate_table",
    "export_candidates",
    "observations",
]
