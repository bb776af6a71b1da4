"""Audits by access level: the same questions put to the same models, with scopes that hold and records that
verify."""
