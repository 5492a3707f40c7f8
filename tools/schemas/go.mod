module meshcert.dev/tools/schemas

go 1.26.8

// Nothing is built from it: it brings the schemas of what the chart renders for the Prometheus Operator.
require github.com/prometheus-operator/prometheus-operator v0.85.0
