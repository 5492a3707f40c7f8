{{- /*
meshcert.yaml of a process; takes (context, process). Each process gets a file of its own, with nothing in it that its roles do not use: what is not mounted is not named.
*/ -}}
{{- define "meshcert.config" -}}
{{- $context := index . 0 -}}
{{- $process := index . 1 -}}
{{- $values := $context.Values -}}
{{- $observes := has "observe" $process.roles -}}
{{- $clusters := list -}}
{{- with $values.cluster -}}
  {{- if or .namespaces (and $observes .observeAllNamespaces) -}}
    {{- $namespaces := ternary (list "*") .namespaces (and $observes .observeAllNamespaces) -}}
    {{- $clusters = append $clusters (dict "name" .name "inCluster" true "namespaces" $namespaces "reach" .reach) -}}
  {{- end -}}
{{- end -}}
{{- range (include "meshcert.remotes" . | fromJson).items -}}
  {{- $kubeconfigs := dict -}}
  {{- range .roles -}}{{- $_ := set $kubeconfigs .role .path -}}{{- end -}}
  {{- $clusters = append $clusters (dict "name" .name "kubeconfigs" $kubeconfigs "namespaces" .namespaces "reach" .reach) -}}
{{- end -}}
{{- $config := dict "clusters" $clusters -}}
{{- if $observes -}}
  {{- with $values.secretRules -}}{{- $_ := set $config "secretRules" . -}}{{- end -}}
  {{- if $values.clusterSecrets.enabled -}}
    {{- $_ := set $config "clusterSecrets" (dict "namespace" (include "meshcert.clusterSecretsNamespace" $context) "istioRemoteSecrets" $values.clusterSecrets.istioRemoteSecrets
          "namespaces" $values.clusterSecrets.namespaces) -}}
  {{- end -}}
{{- end -}}
{{- with $values.naming -}}{{- $_ := set $config "naming" . -}}{{- end -}}
{{- with $values.policy -}}{{- $_ := set $config "policy" . -}}{{- end -}}
{{- /* The Jobs of uninstalling read the same configuration and listen nowhere. */ -}}
{{- if and $values.tls.existingSecret $process.component -}}
  {{- $_ := set $config "tls" (dict "certFile" "/etc/meshcert/tls/tls.crt" "keyFile" "/etc/meshcert/tls/tls.key") -}}
{{- end -}}
{{- if has "webhook" $process.roles -}}
  {{- $_ := set $config "webhook" (include "meshcert.webhookConfig" . | fromYaml) -}}
{{- end -}}
{{- $config | toYaml -}}
{{- end -}}

{{- define "meshcert.webhookConfig" -}}
{{- $context := index . 0 -}}
{{- $process := index . 1 -}}
{{- with $context.Values.webhook -}}
listen: 0.0.0.0:9795
{{- if .credentials.bearerTokenKey }}
bearerTokenFile: /etc/meshcert/webhook/{{ .credentials.bearerTokenKey }}
{{- end }}
{{- with .credentials.basicAuth }}{{ if .username }}
basicAuth: {{ dict "username" .username "passwordFile" (printf "/etc/meshcert/webhook/%s" .passwordKey) | toJson }}
{{- end }}{{ end }}
{{- with .tls }}{{ if .existingSecret }}
tls:
  certFile: /etc/meshcert/webhook-tls/tls.crt
  keyFile: /etc/meshcert/webhook-tls/tls.key
  {{- if kindIs "slice" .clientCertificates }}
  clientCaFile: /etc/meshcert/webhook-tls/ca.crt
  {{- end }}
{{- end }}
{{- if kindIs "slice" .clientCertificates }}
clientCertificates: {{ .clientCertificates | toJson }}
{{- end }}{{ end }}
{{- if not (has "observe" $process.roles) }}
meshesFrom:
  {{- $tls := $context.Values.tls }}
  {{- if .meshesFrom.url }}
  url: {{ .meshesFrom.url }}
  {{- else }}
  url: {{ ternary "https" "http" (ne $tls.existingSecret "") }}://{{ include "meshcert.observeHost" $context }}:9794
  {{- end }}
  {{- if .meshesFrom.caSecret }}
  caFile: /etc/meshcert/observe-ca/ca.crt
  {{- else if and $tls.existingSecret (not .meshesFrom.url) }}
  caFile: /etc/meshcert/tls/ca.crt
  {{- end }}
{{- end }}
{{- with .alertNames }}
alertNames: {{ toJson . }}
{{- end }}
{{- with .labels }}
labels: {{ toJson . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /*
The extra clusters that a process can reach, as JSON: {"items": [{name, namespaces, reach, roles: [{role, secret, path}]}]}; takes (context, process). A role without a kubeconfig leaves the
cluster out.
*/ -}}
{{- define "meshcert.remotes" -}}
{{- $process := index . 1 -}}
{{- $remotes := list -}}
{{- range $cluster := (index . 0).Values.extraClusters -}}
  {{- $roles := list -}}
  {{- range $role := $process.roles -}}
    {{- with get $cluster.kubeconfigSecrets $role -}}
      {{- $roles = append $roles (dict "role" $role "secret" . "path" (printf "/etc/meshcert/kubeconfigs/%s/%s/kubeconfig" $role $cluster.name)) -}}
    {{- end -}}
  {{- end -}}
  {{- if $roles -}}
    {{- $remotes = append $remotes (dict "name" $cluster.name "namespaces" ($cluster.namespaces | default (list "istio-system"))
          "reach" ($cluster.reach | default "auto") "roles" $roles) -}}
  {{- end -}}
{{- end -}}
{{- dict "items" $remotes | toJson -}}
{{- end -}}
