"""The steps of Reprise: one package per chapter, one module per step."""
