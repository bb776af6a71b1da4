"""The report page, laid out from the ``report.json`` of every chapter."""
