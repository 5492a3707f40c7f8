module meshcert.dev/tools/schemas

go 1.26.8

// Nothing is built from them: they bring the schemas of what the chart renders for the two operators.
require (
	github.com/VictoriaMetrics/operator v0.48.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
