"""The names that the demo's parts share."""

LINE, MODEL = "digits", "mlp"
RELEASE, AUDIT = f"release-{LINE}", f"audit-{LINE}"
FIRST, SECOND = "1.0.0", "1.1.0"
FIRST_COUNTER = 5  # of the first honest release, so that an unused lower one exists
