"""DafnyBench: programs, generators, verifier, judges, scores; and a prover that needs no language model.

Inputs: the embedded programs, the user's folder of programs or the benchmark's test.json; recorded answers; Dafny,
or what it said of the embedded programs.
Steps: programs; generate; prove in batches; verify in batches; judge, score, page, report; on request record.
Outputs: results/dafny/STUDY.
"""

from steps.workflow import configuration, dafny

DAFNY_BATCHES = range(settings.dafny.batches)


localrules:
    dafny,
    dafny_generate,
    dafny_page,
    dafny_programs,
    dafny_record,
    dafny_report,
    dafny_score,


rule dafny:
    """DafnyBench: programs, proofs, judgements, page and report."""
    input:
        expand(
            "<dafny>/{file}",
            file=[
                "programs.parquet",
                "judgements.parquet",
                "metrics.json",
                "programs.html",
                "figures/solved.svg",
                "figures/solved.json",
                "report.json",
            ],
        ),
        # what each batch found, and all that Dafny said
        expand(
            "<dafny>/{folder}/{batch}.{kind}",
            folder=["proofs", "verdicts"],
            batch=DAFNY_BATCHES,
            kind=["parquet", "calls.jsonl"],
        ),


rule dafny_programs:
    """Take the programs, and their hints out of them."""
    input:
        lambda wildcards: dafny.program_files(settings)
        or user_files["dafny"]["programs"],
    output:
        "<dafny>/programs.parquet",
    log:
        "logs/dafny/programs/<dafny_study>/programs.log",
    params:
        **step("dafny.programs"),
        odd_files=lambda wildcards: user_files["dafny"]["odd"],
    shell:
        "python -m steps.dafny.programs --files {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule dafny_generate:
    """Replay recorded answers to the programs."""
    input:
        programs="<dafny>/programs.parquet",
        answers=lambda wildcards: dafny.answer_files(settings)
        or user_files["dafny"]["answers"],
    output:
        "<dafny>/attempts.jsonl",
    log:
        "logs/dafny/generate/<dafny_study>/generate.log",
    params:
        **step("dafny.generate"),
    shell:
        "python -m steps.dafny.generate --programs {input.programs:q} --answers {input.answers:q}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule dafny_prove:
    """Look for hints without a language model."""
    input:
        programs="<dafny>/programs.parquet",
        recorded=lambda wildcards: dafny.recorded(settings),
    output:
        proofs="<dafny>/proofs/{batch}.parquet",
        calls="<dafny>/proofs/{batch}.calls.jsonl",
    log:
        "logs/dafny/prove/<dafny_study>/{batch}.log",
    wildcard_constraints:
        batch=r"\d+",
    resources:
        **dafny.resources(settings),
        runtime_settings=runtime_settings["dafny.verifier"],
    params:
        **step("dafny.prove"),
        verifier=configuration.tracked(settings.dafny.verifier),
        batches=settings.dafny.batches,
    shell:
        "python -m steps.dafny.prove --programs {input.programs:q} --recorded {input.recorded:q}"
        " --batch {wildcards.batch:q} --batches {params.batches}"
        " --verifier {params.verifier:q} {resources.runtime_settings:q} --settings {params.settings:q}"
        " --out {output.proofs:q} --calls {output.calls:q} --log {log:q}"


rule dafny_verify:
    """Verify every text that something is claimed about, each in a fresh process."""
    input:
        programs="<dafny>/programs.parquet",
        proofs=expand("<dafny>/proofs/{batch}.parquet", batch=DAFNY_BATCHES),
        attempts="<dafny>/attempts.jsonl",
        recorded=lambda wildcards: dafny.recorded(settings),
    output:
        verdicts="<dafny>/verdicts/{batch}.parquet",
        calls="<dafny>/verdicts/{batch}.calls.jsonl",
    log:
        "logs/dafny/verify/<dafny_study>/{batch}.log",
    wildcard_constraints:
        batch=r"\d+",
    resources:
        **dafny.resources(settings),
        runtime_settings=runtime_settings["dafny.verifier"],
    params:
        code=step("dafny.verify")["code"],
        verifier=configuration.tracked(settings.dafny.verifier),
        batches=settings.dafny.batches,
    shell:
        "python -m steps.dafny.verify --programs {input.programs:q} --proofs {input.proofs:q}"
        " --attempts {input.attempts:q} --recorded {input.recorded:q}"
        " --batch {wildcards.batch:q} --batches {params.batches}"
        " --verifier {params.verifier:q} {resources.runtime_settings:q}"
        " --out {output.verdicts:q} --calls {output.calls:q} --log {log:q}"


rule dafny_judge:
    """Judge which answers solve their program."""
    input:
        programs="<dafny>/programs.parquet",
        proofs=expand("<dafny>/proofs/{batch}.parquet", batch=DAFNY_BATCHES),
        attempts="<dafny>/attempts.jsonl",
        verdicts=expand("<dafny>/verdicts/{batch}.parquet", batch=DAFNY_BATCHES),
    output:
        "<dafny>/judgements.parquet",
    log:
        "logs/dafny/judge/<dafny_study>/judge.log",
    resources:
        **dafny.resources(settings),
    params:
        code=step("dafny.judge")["code"],
    shell:
        "python -m steps.dafny.judge --programs {input.programs:q} --proofs {input.proofs:q}"
        " --attempts {input.attempts:q} --verdicts {input.verdicts:q} --out {output:q} --log {log:q}"


rule dafny_score:
    """Count what each generator solves."""
    input:
        programs="<dafny>/programs.parquet",
        proofs=expand("<dafny>/proofs/{batch}.parquet", batch=DAFNY_BATCHES),
        judgements="<dafny>/judgements.parquet",
    output:
        metrics="<dafny>/metrics.json",
        scores="<dafny>/scores.json",
    log:
        "logs/dafny/score/<dafny_study>/score.log",
    params:
        code=step("dafny.score")["code"],
        verifier=configuration.tracked(settings.dafny.verifier),
    shell:
        "python -m steps.dafny.score --programs {input.programs:q} --proofs {input.proofs:q}"
        " --judgements {input.judgements:q} --verifier {params.verifier:q}"
        " --metrics {output.metrics:q} --out {output.scores:q} --log {log:q}"


rule dafny_page:
    """Lay out all programs and answers as one page."""
    input:
        programs="<dafny>/programs.parquet",
        proofs=expand("<dafny>/proofs/{batch}.parquet", batch=DAFNY_BATCHES),
        judgements="<dafny>/judgements.parquet",
        scores="<dafny>/scores.json",
    output:
        "<dafny>/programs.html",
    log:
        "logs/dafny/page/<dafny_study>/page.log",
    params:
        **step("dafny.page"),
        study=settings.dafny.study,
    shell:
        "python -m steps.dafny.page --study {params.study:q} --programs {input.programs:q}"
        " --proofs {input.proofs:q} --judgements {input.judgements:q} --scores {input.scores:q}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule dafny_report:
    """Write the chapter's part of the report page."""
    input:
        programs="<dafny>/programs.parquet",
        proofs=expand("<dafny>/proofs/{batch}.parquet", batch=DAFNY_BATCHES),
        verdicts=expand("<dafny>/verdicts/{batch}.parquet", batch=DAFNY_BATCHES),
        attempts="<dafny>/attempts.jsonl",
        judgements="<dafny>/judgements.parquet",
        metrics="<dafny>/metrics.json",
        scores="<dafny>/scores.json",
        page="<dafny>/programs.html",
    output:
        report="<dafny>/report.json",
        figure="<dafny>/figures/solved.svg",
        data="<dafny>/figures/solved.json",
    log:
        "logs/dafny/report/<dafny_study>/report.log",
    params:
        code=step("dafny.report")["code"],
        study=settings.dafny.study,
        section=configuration.tracked(settings.dafny),
    shell:
        "python -m steps.dafny.report --study {params.study:q} --section {params.section:q}"
        " --programs {input.programs:q} --proofs {input.proofs:q} --verdicts {input.verdicts:q}"
        " --attempts {input.attempts:q} --judgements {input.judgements:q} --metrics {input.metrics:q}"
        " --scores {input.scores:q} --page {input.page:q} --report {output.report:q}"
        " --figure {output.figure:q} --data {output.data:q} --log {log:q}"


rule dafny_record:
    """Put all that Dafny was asked and answered into one file."""
    input:
        expand(
            "<dafny>/{folder}/{batch}.calls.jsonl",
            folder=["proofs", "verdicts"],
            batch=DAFNY_BATCHES,
        ),
    output:
        "<dafny>/recorded.jsonl",
    log:
        "logs/dafny/record/<dafny_study>/record.log",
    params:
        code=step("dafny.record")["code"],
    shell:
        "python -m steps.dafny.record --calls {input:q} --out {output:q} --log {log:q}"
