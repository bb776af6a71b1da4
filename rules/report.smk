"""The report page.

Lays out what the chapters found as one self-contained page.

Inputs: results/CHAPTER/STUDY/report.json of every configured chapter, the figures and data that
they name, and the records of jobs under logs/ where there are some (they are no inputs to Snakemake).
Output: results/report/index.html.
Steps: page.
"""

from steps.workflow import configuration


localrules:
    report_page,
    report,


REPORTS = configuration.reports(settings)


rule report_page:
    """Lay out the results of the chapters as one page."""
    input:
        # what the reports name: a redrawn figure alone rebuilds the page
        *(getattr(rules, chapter).input for chapter in REPORTS),
        reports=list(REPORTS.values()),
    output:
        "results/report/index.html",
    log:
        "logs/report/page/index.log",
    params:
        **step("report.page"),
    shell:
        "python -m steps.report.page --reports {input.reports:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule report:
    """The report page."""
    input:
        rules.report_page.output,
