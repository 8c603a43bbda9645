"""Records of many runs and foreign models as one ranked page and one CSV file, as RobustBench has them."""

from corral.report.leaderboard.write import compare

__all__ = ["compare"]
