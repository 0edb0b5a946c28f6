"""The campaign dashboard: start, pause and resume a campaign, and watch its progress.

One page, made with Panel.
"""

__all__: list[str] = []
