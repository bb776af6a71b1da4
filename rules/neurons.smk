"""Universal neurons: which neurons of a language model come back when the seed changes.

Inputs: the models, tokenizer and packed rows of the language_models chapter. Steps, for each model:
dump activations, sum their moments; for each pair of models: correlate all neurons, cut into tiles of
the reference and, where ranges > 1, into token ranges whose products are merged; then the excess over
the rotated baseline, clusters, tables, figures and the report.
Outputs: results/neurons/STUDY/{neurons,examples,excess,clusters,edges}.parquet, figures, metrics.json.
"""


rule neurons:
    """Universal neurons of the configured study: tables, figures, metrics and report."""
    input:
        lambda wildcards: chapters.neuron_files(settings),


rule neurons_dump:
    """Dump the activations of a model."""
    input:
        model=f"data/models/{settings.language_models.study}/{{model}}/ledger.json",
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        rows=chapters.rows_ledger(settings),
    output:
        "results/neurons/{study}/activations/{model}/ledger.json",
    log:
        "logs/neurons/dump/{study}/{model}.log",
    benchmark:
        "logs/neurons/dump/{study}/{model}.tsv"
    threads: settings.neurons.dump.threads
    resources:
        **chapters.neuron_resources(settings, "dump"),
    params:
        **step("neurons.dump"),
    shell:
        "python -m steps.neurons.dump --model {input.model:q} --tokenizer {input.tokenizer:q}"
        " --rows {input.rows:q} --name {wildcards.model:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_moments:
    """Sum the moments of a model over a token range."""
    input:
        "results/neurons/{study}/activations/{model}/ledger.json",
    output:
        "results/neurons/{study}/moments/{model}/range-{range}.safetensors",
    log:
        "logs/neurons/moments/{study}/{model}/range-{range}.log",
    benchmark:
        "logs/neurons/moments/{study}/{model}/range-{range}.tsv"
    threads: settings.neurons.moments.threads
    resources:
        **chapters.neuron_resources(settings, "moments"),
    params:
        **step("neurons.moments"),
        ranges=settings.neurons.ranges,
    shell:
        "python -m steps.neurons.moments --activations {input:q} --ranges {params.ranges}"
        " --index {wildcards.range} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_products:
    """Sum the products of two models over a tile and a token range."""
    input:
        a="results/neurons/{study}/activations/{a}/ledger.json",
        b="results/neurons/{study}/activations/{b}/ledger.json",
    output:
        temp(
            "results/neurons/{study}/products/{a}/{b}/tile-{tile}/range-{range}.safetensors"
        ),
    log:
        "logs/neurons/products/{study}/{a}/{b}/tile-{tile}/range-{range}.log",
    benchmark:
        "logs/neurons/products/{study}/{a}/{b}/tile-{tile}/range-{range}.tsv"
    threads: settings.neurons.products.threads
    resources:
        **chapters.neuron_resources(settings, "products"),
    params:
        **step("neurons.products"),
        tiles=settings.neurons.tiles,
        ranges=settings.neurons.ranges,
    shell:
        "python -m steps.neurons.products --a {input.a:q} --b {input.b:q} --tiles {params.tiles}"
        " --tile {wildcards.tile} --ranges {params.ranges} --index {wildcards.range}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_correlate:
    """Correlate two models over a tile, and with rotations."""
    input:
        a="results/neurons/{study}/activations/{a}/ledger.json",
        b="results/neurons/{study}/activations/{b}/ledger.json",
        a_moments=expand(
            "results/neurons/{study}/moments/{a}/range-{range}.safetensors",
            range=chapters.ranges(settings),
            allow_missing=True,
        ),
        b_moments=expand(
            "results/neurons/{study}/moments/{b}/range-{range}.safetensors",
            range=chapters.ranges(settings),
            allow_missing=True,
        ),
        products=expand(
            "results/neurons/{study}/products/{a}/{b}/tile-{tile}/range-{range}.safetensors",
            range=chapters.product_ranges(settings),
            allow_missing=True,
        ),
    output:
        "results/neurons/{study}/correlations/{a}/{b}/tile-{tile}.safetensors",
    log:
        "logs/neurons/correlate/{study}/{a}/{b}/tile-{tile}.log",
    benchmark:
        "logs/neurons/correlate/{study}/{a}/{b}/tile-{tile}.tsv"
    threads: settings.neurons.correlate.threads
    resources:
        **chapters.neuron_resources(settings, "correlate"),
    params:
        **step("neurons.correlate"),
        tiles=settings.neurons.tiles,
    shell:
        "python -m steps.neurons.correlate --a {input.a:q} --b {input.b:q}"
        " --a-moments {input.a_moments:q} --b-moments {input.b_moments:q} --products {input.products:q}"
        " --tiles {params.tiles} --tile {wildcards.tile} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_baseline:
    """Compare the reference's correlations with their rotated baseline."""
    input:
        chapters.correlation_files(settings, reference=True),
    output:
        "results/neurons/{study}/excess.parquet",
    log:
        "logs/neurons/baseline/{study}/baseline.log",
    benchmark:
        "logs/neurons/baseline/{study}/baseline.tsv"
    group:
        "neurons_tables"
    resources:
        **chapters.neuron_resources(settings, "tables"),
    params:
        **step("neurons.baseline"),
    shell:
        "python -m steps.neurons.baseline --correlations {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_clusters:
    """Find clusters of the same neuron across models."""
    input:
        correlations=chapters.correlation_files(settings),
        activations=chapters.activation_ledgers(settings),
    output:
        clusters="results/neurons/{study}/clusters.parquet",
        edges="results/neurons/{study}/edges.parquet",
    log:
        "logs/neurons/clusters/{study}/clusters.log",
    benchmark:
        "logs/neurons/clusters/{study}/clusters.tsv"
    threads: settings.neurons.clusters.threads
    resources:
        **chapters.neuron_resources(settings, "clusters"),
    params:
        **step("neurons.clusters"),
    shell:
        "python -m steps.neurons.clusters --correlations {input.correlations:q}"
        " --activations {input.activations:q} --settings {params.settings:q}"
        " --clusters {output.clusters:q} --edges {output.edges:q} --log {log:q}"


rule neurons_table:
    """Gather what is known of every neuron."""
    input:
        activations=chapters.activation_ledgers(settings),
        moments=chapters.moment_files(settings),
        correlations=chapters.correlation_files(settings, reference=True),
        excess="results/neurons/{study}/excess.parquet",
        clusters="results/neurons/{study}/clusters.parquet",
    output:
        neurons="results/neurons/{study}/neurons.parquet",
        examples="results/neurons/{study}/examples.parquet",
    log:
        "logs/neurons/table/{study}/table.log",
    benchmark:
        "logs/neurons/table/{study}/table.tsv"
    group:
        "neurons_tables"
    resources:
        **chapters.neuron_resources(settings, "tables"),
    params:
        **step("neurons.table"),
    shell:
        "python -m steps.neurons.table --activations {input.activations:q} --moments {input.moments:q}"
        " --correlations {input.correlations:q} --excess {input.excess:q} --clusters {input.clusters:q}"
        " --neurons {output.neurons:q} --examples {output.examples:q} --log {log:q}"


rule neurons_figure:
    """Draw a figure."""
    input:
        excess="results/neurons/{study}/excess.parquet",
        clusters="results/neurons/{study}/clusters.parquet",
        correlations=chapters.correlation_files(settings, reference=True),
    output:
        figure="results/neurons/{study}/figures/{figure}.svg",
        data="results/neurons/{study}/figures/{figure}.json",
    log:
        "logs/neurons/figure/{study}/{figure}.log",
    benchmark:
        "logs/neurons/figure/{study}/{figure}.tsv"
    group:
        "neurons_tables"
    resources:
        **chapters.neuron_resources(settings, "tables"),
    params:
        **step("neurons.figure"),
    shell:
        "python -m steps.neurons.figure --figure {wildcards.figure:q} --excess {input.excess:q}"
        " --clusters {input.clusters:q} --correlations {input.correlations:q} --out {output.figure:q}"
        " --data {output.data:q} --log {log:q}"


rule neurons_report:
    """Write the headline figures of the neurons chapter."""
    input:
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        activations=chapters.activation_ledgers(settings),
        correlations=chapters.correlation_files(settings, reference=True),
        excess="results/neurons/{study}/excess.parquet",
        clusters="results/neurons/{study}/clusters.parquet",
        examples="results/neurons/{study}/examples.parquet",
        figures=expand(
            "results/neurons/{study}/figures/{figure}.svg",
            figure=chapters.NEURON_FIGURES,
            allow_missing=True,
        ),
    output:
        metrics="results/neurons/{study}/metrics.json",
        report="results/neurons/{study}/report.json",
    log:
        "logs/neurons/report/{study}/report.log",
    benchmark:
        "logs/neurons/report/{study}/report.tsv"
    group:
        "neurons_tables"
    resources:
        **chapters.neuron_resources(settings, "report"),
    params:
        **step("neurons.report"),
        section=chapters.tracked(settings.neurons),
    shell:
        "python -m steps.neurons.report --study {wildcards.study:q} --section {params.section:q}"
        " --tokenizer {input.tokenizer:q} --activations {input.activations:q}"
        " --correlations {input.correlations:q} --excess {input.excess:q} --clusters {input.clusters:q}"
        " --examples {input.examples:q} --figures {input.figures:q} --settings {params.settings:q}"
        " --metrics-out {output.metrics:q} --report {output.report:q} --log {log:q}"
