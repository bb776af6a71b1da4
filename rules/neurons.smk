"""Universal neurons: which neurons of a language model come back when the seed changes.

Inputs: the models, tokenizer and packed rows of the language_models chapter. Steps, for each model:
dump activations, sum their moments; for each pair of models: correlate all neurons, cut into tiles of
the reference and, where ranges > 1, into token ranges whose products are merged; then the excess over
the rotated baseline, clusters, tables, figures and the report.
Outputs: results/neurons/STUDY/{neurons,examples,excess,clusters,edges}.parquet, figures, metrics.json.
"""

NEURONS = "results/neurons/{study}"
NEURONS_LOG = "logs/neurons"


rule neurons:
    """Universal neurons of the configured study: tables, figures, metrics and report."""
    input:
        expand(
            NEURONS + "/{file}",
            study=settings.neurons.study,
            file=["report.json", "metrics.json", "neurons.parquet", "edges.parquet"]
            + [
                f"figures/{figure}.{kind}"
                for figure in chapters.NEURON_FIGURES
                for kind in ("svg", "json")
            ],
        ),


rule neurons_dump:
    """Dump the activations of a model."""
    input:
        model=f"data/models/{settings.language_models.study}/{{model}}/ledger.json",
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        rows=chapters.rows_ledger(settings),
    output:
        NEURONS + "/activations/{model}/ledger.json",
    log:
        NEURONS_LOG + "/dump/{study}/{model}.log",
    benchmark:
        NEURONS_LOG + "/dump/{study}/{model}.tsv"
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
        NEURONS + "/activations/{model}/ledger.json",
    output:
        NEURONS + "/moments/{model}/range-{range}.safetensors",
    log:
        NEURONS_LOG + "/moments/{study}/{model}/range-{range}.log",
    benchmark:
        NEURONS_LOG + "/moments/{study}/{model}/range-{range}.tsv"
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
        a=NEURONS + "/activations/{a}/ledger.json",
        b=NEURONS + "/activations/{b}/ledger.json",
    output:
        temp(NEURONS + "/products/{a}/{b}/tile-{tile}/range-{range}.safetensors"),
    log:
        NEURONS_LOG + "/products/{study}/{a}/{b}/tile-{tile}/range-{range}.log",
    benchmark:
        NEURONS_LOG + "/products/{study}/{a}/{b}/tile-{tile}/range-{range}.tsv"
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
        a=NEURONS + "/activations/{a}/ledger.json",
        b=NEURONS + "/activations/{b}/ledger.json",
        a_moments=expand(
            NEURONS + "/moments/{a}/range-{range}.safetensors",
            range=chapters.ranges(settings),
            allow_missing=True,
        ),
        b_moments=expand(
            NEURONS + "/moments/{b}/range-{range}.safetensors",
            range=chapters.ranges(settings),
            allow_missing=True,
        ),
        products=expand(
            NEURONS + "/products/{a}/{b}/tile-{tile}/range-{range}.safetensors",
            range=chapters.product_ranges(settings),
            allow_missing=True,
        ),
    output:
        NEURONS + "/correlations/{a}/{b}/tile-{tile}.safetensors",
    log:
        NEURONS_LOG + "/correlate/{study}/{a}/{b}/tile-{tile}.log",
    benchmark:
        NEURONS_LOG + "/correlate/{study}/{a}/{b}/tile-{tile}.tsv"
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
        chapters.correlation_files(settings, NEURONS, reference=True),
    output:
        NEURONS + "/excess.parquet",
    log:
        NEURONS_LOG + "/baseline/{study}/baseline.log",
    benchmark:
        NEURONS_LOG + "/baseline/{study}/baseline.tsv"
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
        correlations=chapters.correlation_files(settings, NEURONS),
        activations=chapters.activation_ledgers(settings, NEURONS),
    output:
        clusters=NEURONS + "/clusters.parquet",
        edges=NEURONS + "/edges.parquet",
    log:
        NEURONS_LOG + "/clusters/{study}/clusters.log",
    benchmark:
        NEURONS_LOG + "/clusters/{study}/clusters.tsv"
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
        activations=chapters.activation_ledgers(settings, NEURONS),
        moments=chapters.moment_files(settings, NEURONS),
        correlations=chapters.correlation_files(settings, NEURONS, reference=True),
        excess=NEURONS + "/excess.parquet",
        clusters=NEURONS + "/clusters.parquet",
    output:
        neurons=NEURONS + "/neurons.parquet",
        examples=NEURONS + "/examples.parquet",
    log:
        NEURONS_LOG + "/table/{study}/table.log",
    benchmark:
        NEURONS_LOG + "/table/{study}/table.tsv"
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
        excess=NEURONS + "/excess.parquet",
        clusters=NEURONS + "/clusters.parquet",
        correlations=chapters.correlation_files(settings, NEURONS, reference=True),
    output:
        figure=NEURONS + "/figures/{figure}.svg",
        data=NEURONS + "/figures/{figure}.json",
    log:
        NEURONS_LOG + "/figure/{study}/{figure}.log",
    benchmark:
        NEURONS_LOG + "/figure/{study}/{figure}.tsv"
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
        activations=chapters.activation_ledgers(settings, NEURONS),
        correlations=chapters.correlation_files(settings, NEURONS, reference=True),
        excess=NEURONS + "/excess.parquet",
        clusters=NEURONS + "/clusters.parquet",
        examples=NEURONS + "/examples.parquet",
        figures=expand(
            NEURONS + "/figures/{figure}.svg",
            figure=chapters.NEURON_FIGURES,
            allow_missing=True,
        ),
    output:
        metrics=NEURONS + "/metrics.json",
        report=NEURONS + "/report.json",
    log:
        NEURONS_LOG + "/report/{study}/report.log",
    benchmark:
        NEURONS_LOG + "/report/{study}/report.tsv"
    resources:
        **chapters.neuron_resources(settings, "tables"),
    params:
        **step("neurons.report"),
        section=lambda wildcards: settings.neurons.model_dump_json(),
    shell:
        "python -m steps.neurons.report --study {wildcards.study:q} --section {params.section:q}"
        " --tokenizer {input.tokenizer:q} --activations {input.activations:q}"
        " --correlations {input.correlations:q} --excess {input.excess:q} --clusters {input.clusters:q}"
        " --examples {input.examples:q} --figures {input.figures:q} --settings {params.settings:q}"
        " --metrics-out {output.metrics:q} --report {output.report:q} --log {log:q}"
