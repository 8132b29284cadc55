"""Energy and power: what a meter owes (`meter`), the meters there are, how an inference is metered (`energy`)."""
