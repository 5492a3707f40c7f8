{{- define "meshcert.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Labels that stay the same for the life of a release; takes (context, component). */ -}}
{{- define "meshcert.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* All labels of an object; takes (context, component). */ -}}
{{- define "meshcert.labels" -}}
{{ include "meshcert.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "meshcert.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* The Deployments of this release, as JSON: {"items": [{name, component, roles, replicas, resources}]}. */ -}}
{{- define "meshcert.processes" -}}
{{- $full := include "meshcert.fullname" . -}}
{{- $roles := list -}}
{{- $each := list -}}
{{- range $role := list "observe" "webhook" "act" -}}
  {{- $values := index $.Values $role -}}
  {{- if $values.enabled -}}
    {{- $roles = append $roles $role -}}
    {{- $each = append $each (dict "name" (printf "%s-%s" $full $role) "component" $role "roles" (list $role)
          "replicas" $values.replicas "resources" $values.resources) -}}
  {{- end -}}
{{- end -}}
{{- with .Values.combined -}}
  {{- if .enabled -}}
    {{- $each = list (dict "name" $full "component" "combined" "roles" $roles "replicas" .replicas "resources" .resources) -}}
  {{- end -}}
{{- end -}}
{{- dict "items" $each | toJson -}}
{{- end -}}

{{- /* The component in which a role runs; takes (context, role). */ -}}
{{- define "meshcert.component" -}}
{{- ternary "combined" (index . 1) (index . 0).Values.combined.enabled -}}
{{- end -}}

{{- /* The name of a role's Deployment and account; takes (context, role). */ -}}
{{- define "meshcert.process" -}}
{{- $full := include "meshcert.fullname" (index . 0) -}}
{{- ternary $full (printf "%s-%s" $full (index . 1)) (index . 0).Values.combined.enabled -}}
{{- end -}}

{{- /* The name by which the observing pods are asked inside the cluster. */ -}}
{{- define "meshcert.observeHost" -}}
{{ include "meshcert.fullname" . }}-observe.{{ .Release.Namespace }}.svc
{{- end -}}

{{- /* Where alerts and dashboards link to runbooks as they are written; the default of monitoring.rules.runbookUrl. */ -}}
{{- define "meshcert.publishedRunbooks" -}}
https://github.com/meshcert/meshcert/blob/main/docs/runbooks
{{- end -}}

{{- /* Where the Secrets lie that announce further clusters. */ -}}
{{- define "meshcert.clusterSecretsNamespace" -}}
{{- .Values.clusterSecrets.namespace | default .Release.Namespace -}}
{{- end -}}

{{- /* The Secret of the webhook's credential. */ -}}
{{- define "meshcert.credentials" -}}
{{- .Values.webhook.credentials.existingSecret | default (printf "%s-webhook" (include "meshcert.fullname" .)) -}}
{{- end -}}

{{- /* Seconds of a duration as in meshcert.yaml (30d, 1h30m). */ -}}
{{- define "meshcert.seconds" -}}
{{- $units := dict "y" 31536000 "w" 604800 "d" 86400 "h" 3600 "m" 60 "s" 1 -}}
{{- $total := 0 -}}
{{- range regexFindAll "[0-9]+[ywdhms]" . -1 -}}
  {{- $total = add $total (mul (atoi (regexFind "[0-9]+" .)) (index $units (regexFind "[ywdhms]" .))) -}}
{{- end -}}
{{- $total -}}
{{- end -}}
