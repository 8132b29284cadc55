// The ranking of strategies, where there is one.
