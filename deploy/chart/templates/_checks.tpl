{{- /* What a schema cannot say: values that contradict each other. */ -}}
{{- define "meshcert.checks" -}}
{{- $values := .Values -}}
{{- $processes := (include "meshcert.processes" . | fromJson).items -}}
{{- if not $processes -}}
  {{- fail "nothing is enabled: set observe.enabled, webhook.enabled or act.enabled" -}}
{{- end -}}
{{- if and $values.combined.enabled (not (index $processes 0).roles) -}}
  {{- fail "combined.enabled without a role: set observe.enabled, webhook.enabled or act.enabled" -}}
{{- end -}}
{{- if and $values.combined.enabled $values.cluster.observeAllNamespaces $values.act.enabled -}}
  {{- fail "combined.enabled, act.enabled and cluster.observeAllNamespaces exclude each other: act needs named namespaces; leave a Deployment to each role" -}}
{{- end -}}
{{- if and $values.act.enabled $values.cluster.observeAllNamespaces (not $values.cluster.namespaces) -}}
  {{- fail "act.enabled needs cluster.namespaces: name those in which meshcert may renew" -}}
{{- end -}}
{{- $mode := get $values.policy "mode" | default "observe" -}}
{{- if and (ne $mode "observe") (not $values.act.enabled) -}}
  {{- fail (printf "policy.mode is %s, but nobody would renew: set act.enabled=true" $mode) -}}
{{- end -}}
{{- if and $values.clusterSecrets.enabled (not (or $values.cluster.namespaces $values.cluster.observeAllNamespaces)) -}}
  {{- fail "clusterSecrets.enabled needs cluster.namespaces: the Secrets are looked for in the first cluster, this one" -}}
{{- end -}}
{{- $roles := list -}}
{{- range $processes -}}{{- $roles = concat $roles .roles -}}{{- end -}}
{{- $names := list -}}
{{- range $cluster := $values.extraClusters -}}
  {{- if has $cluster.name $names -}}
    {{- fail (printf "extraClusters: %q stands there twice; give each cluster its own name" $cluster.name) -}}
  {{- end -}}
  {{- $names = append $names $cluster.name -}}
  {{- if eq $cluster.name $values.cluster.name -}}
    {{- fail (printf "extraClusters: %q is the name of this cluster already (cluster.name); give each its own" $cluster.name) -}}
  {{- end -}}
  {{- $lacking := list -}}
  {{- range $role := $roles -}}
    {{- if not (get $cluster.kubeconfigSecrets $role) -}}{{- $lacking = append $lacking $role -}}{{- end -}}
  {{- end -}}
  {{- if and $lacking $values.combined.enabled -}}
    {{- fail (printf "extraClusters: %s has no kubeconfigSecrets.%s, and combined.enabled needs one for each enabled role" $cluster.name (first $lacking)) -}}
  {{- end -}}
  {{- if has "observe" $lacking -}}
    {{- fail (printf "extraClusters: %s has no kubeconfigSecrets.observe, without which neither the page nor the webhook knows its meshes; name the Secret with that role's kubeconfig" $cluster.name) -}}
  {{- end -}}
  {{- if eq (len $lacking) (len $roles) -}}
    {{- fail (printf "extraClusters: %s is left alone, for it has kubeconfigSecrets only of roles that are not enabled; enable one of them, or add kubeconfigSecrets.%s" $cluster.name (join " or kubeconfigSecrets." $roles)) -}}
  {{- end -}}
{{- end -}}
{{- /* Without clusters the program takes the pod's own, where it would have no rights. */ -}}
{{- range $process := $processes -}}
  {{- $here := or $values.cluster.namespaces (and (has "observe" $process.roles) $values.cluster.observeAllNamespaces) -}}
  {{- if and (not $here) (not (include "meshcert.remotes" (list $ $process) | fromJson).items) -}}
    {{- fail (printf "cluster.namespaces is empty, and no extraClusters has kubeconfigSecrets.%s: %s would have no cluster; name one" (first $process.roles) $process.name) -}}
  {{- end -}}
{{- end -}}
{{- range $rule := $values.secretRules -}}
  {{- if has "*" (get $rule "namespaces" | default list) -}}
    {{- fail "secretRules: namespaces: ['*'] is no namespace; leave namespaces out, for a rule without them is about every watched one, and watch all with cluster.observeAllNamespaces=true" -}}
  {{- end -}}
{{- end -}}
{{- range $label, $_ := include "meshcert.selector" (list . "any") | fromYaml -}}
  {{- if hasKey $values.podLabels $label -}}
    {{- fail (printf "podLabels: %s is the chart's own, by which pods are found; take another label" $label) -}}
  {{- end -}}
{{- end -}}
{{- if $values.webhook.enabled -}}
  {{- with $values.webhook -}}
    {{- if and (not $values.observe.enabled) (not .meshesFrom.url) -}}
      {{- fail "webhook.enabled needs observe.enabled, or webhook.meshesFrom.url: it learns the meshes from an observe pod" -}}
    {{- end -}}
    {{- if and (hasPrefix "https:" .meshesFrom.url) (not .meshesFrom.caSecret) -}}
      {{- fail "webhook.meshesFrom.url with https needs webhook.meshesFrom.caSecret: nobody is believed unverified" -}}
    {{- end -}}
    {{- if and (kindIs "slice" .tls.clientCertificates) (not .tls.existingSecret) -}}
      {{- fail "webhook.tls.clientCertificates needs webhook.tls.existingSecret: certificates are shown in TLS" -}}
    {{- end -}}
    {{- if not (or .credentials.bearerTokenKey .credentials.basicAuth.username (kindIs "slice" .tls.clientCertificates)) -}}
      {{- fail "webhook.enabled needs webhook.credentials.bearerTokenKey, webhook.credentials.basicAuth or webhook.tls.clientCertificates: nobody may ask without a credential" -}}
    {{- end -}}
    {{- if and .credentials.basicAuth.username (not .credentials.existingSecret) -}}
      {{- fail "webhook.credentials.basicAuth needs webhook.credentials.existingSecret with the password; only a bearer token is generated" -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $before := include "meshcert.seconds" (get $values.policy "renewBefore" | default "30d") | int64 -}}
{{- $critical := include "meshcert.seconds" $values.monitoring.rules.criticalBefore | int64 -}}
{{- if ge $critical $before -}}
  {{- fail (printf "monitoring.rules.criticalBefore (%s) must be shorter than policy.renewBefore (%s)" $values.monitoring.rules.criticalBefore (get $values.policy "renewBefore" | default "30d")) -}}
{{- end -}}
{{- end -}}
