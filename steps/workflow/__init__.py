"""What Snakemake and DVC need to know of the chapters, one module each; nobody else imports it."""
