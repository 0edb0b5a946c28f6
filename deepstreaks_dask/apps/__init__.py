"""Dashboards on Panel: explore, campaign and review. ``deepstreaks dashboard ARCHIVE`` serves them."""
