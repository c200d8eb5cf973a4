"""The report as one HTML file: pages of any result, charts, and the template."""
