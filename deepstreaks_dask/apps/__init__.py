"""The dashboards: explore, campaign and review, and the server they share.

Panel pages in `explore` and `campaign`; HTML on an HTTP API in `review` and `server`.
"""

__all__: list[str] = []
