"""The corpus: labelled documents, split into a train and a held-out side.

Inputs: the running Python's standard library, a folder of the user's files or a hub dataset,
as `corpus.documents.source` says.
Outputs: data/raw/embedded (frozen on first use), data/corpora/STUDY.
Steps: freeze, documents.
"""

from steps.workflow import corpus


localrules:
    corpus,
    corpus_freeze,


if settings.corpus.documents.source == "hub":

    localrules:  # compute nodes have no network
        corpus_documents,


rule corpus:
    """The corpus: labelled documents, split into a train and a held-out side."""
    input:
        "<corpus>/documents.parquet",


# Without code and settings: the snapshot is raw material and stays as it is, whatever Python runs
# later. `snakemake corpus --forcerun corpus_freeze` takes another.
rule corpus_freeze:
    """Freeze the text of the running Python's standard library."""
    output:
        table="data/raw/embedded/stdlib.parquet",
        manifest="data/raw/embedded/manifest.json",
    log:
        "logs/corpus/freeze/stdlib.log",
    shell:
        "python -m steps.corpus.freeze --out {output.table:q} --manifest {output.manifest:q} --log {log:q}"


rule corpus_documents:
    """Make the documents of the corpus, each on one side of the split."""
    input:
        snapshot=lambda wildcards: corpus.snapshot(settings),
        files=lambda wildcards: user_files["corpus"]["documents"],
    output:
        table="<corpus>/documents.parquet",
        manifest="<corpus>/manifest.json",
    log:
        "logs/corpus/documents/<corpus_study>.log",
    threads: settings.corpus.documents.threads
    resources:
        **corpus.resources(settings),
        runtime_settings=runtime_settings["corpus.documents"],
    params:
        **step("corpus.documents"),
        odd_files=lambda wildcards: user_files["corpus"]["odd"],
    shell:
        "python -m steps.corpus.documents --settings {params.settings:q} {resources.runtime_settings:q}"
        " --snapshot {input.snapshot:q} --out {output.table:q} --manifest {output.manifest:q} --log {log:q}"
